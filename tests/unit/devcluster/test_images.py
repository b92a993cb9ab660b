"""Tags, archives and what travels to a node."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import tomllib
from pathlib import Path

import pytest

from devcluster import archive, imageload, imageprune, images
from devcluster.errors import DevclusterError
from devcluster.images import IMAGES, Image
from devcluster.paths import TREE

RECIPE = "ARG BASE=x\nFROM ${BASE} AS w\nCOPY a.txt folder ./\nFROM ${BASE}\nCOPY --from=w /dist /dist\nCOPY b.txt /b\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "images" / "x").mkdir(parents=True)
    (tmp_path / "images" / "x" / "Containerfile").write_text(RECIPE)
    (tmp_path / "folder" / "__pycache__").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "folder/c.txt", "folder/__pycache__/c.pyc", "unused.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_only_what_is_copied_from_the_context_counts() -> None:
    assert images.copied_paths(RECIPE) == ["a.txt", "b.txt", "folder"]


def test_a_tag_changes_with_recipe_content_and_base_and_with_nothing_else(tree: Path) -> None:
    image = Image("x", ".")
    first = images.content_tag(image, "base:1", tree)
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    (tree / "unused.txt").write_text("other")
    (tree / "folder" / "__pycache__" / "c.pyc").write_text("other")
    assert images.content_tag(image, "base:1", tree) == first
    assert images.content_tag(image, "base:2", tree) != first
    (tree / "folder" / "c.txt").write_text("other")
    second = images.content_tag(image, "base:1", tree)
    assert second != first
    (tree / "images" / "x" / "Containerfile").write_text(RECIPE + "USER 1\n")
    assert images.content_tag(image, "base:1", tree) not in (first, second)


def test_a_missing_source_names_itself(tree: Path) -> None:
    (tree / "b.txt").unlink()
    with pytest.raises(DevclusterError, match=r"copies b\.txt"):
        images.content_tag(Image("x", "."), "base:1", tree)


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_our_recipes_take_the_base_as_an_argument_and_do_not_run_as_root(name: str) -> None:
    text = IMAGES[name].containerfile.read_text(encoding="utf-8")
    assert "ARG BASE=python:3.11-slim-bookworm" in text
    assert re.search(r"^USER [1-9]", text, re.MULTILINE)
    assert "http" not in text


def test_a_one_program_image_is_the_same_every_time_and_consistent() -> None:
    first, second = (archive.single_program_image("localhost/p:1", b"\x7fELF", "/pause") for _ in range(2))
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        layer = tar.extractfile(manifest["Layers"][0]).read()  # type: ignore[union-attr]
        config = json.load(tar.extractfile(manifest["Config"]))  # type: ignore[arg-type]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.getmember("pause").mode == 0o755


def export(folder: Path, layers: list[bytes]) -> list[str]:
    """A `dir:` export as buildah writes it; returns the layers' digests."""
    digests = []
    for blob in (b"{}", *layers):
        value = hashlib.sha256(blob).hexdigest()
        (folder / value).write_bytes(blob)
        digests.append(f"sha256:{value}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"digest": digests[0]},
        "layers": [{"digest": digest} for digest in digests[1:]],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return digests[1:]


def test_layers_that_a_node_has_do_not_travel(tmp_path: Path) -> None:
    digests = export(tmp_path, [b"base", b"dependencies", b"source"])
    stream = io.BytesIO()

    imageload.write_layout(stream, "localhost/x:1", tmp_path, set(digests[:2]))

    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
        names = tar.getnames()
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    blobs = [name for name in names if name.startswith("blobs/")]
    assert f"blobs/sha256/{digests[2].removeprefix('sha256:')}" in blobs
    assert len(blobs) == 3  # manifest, configuration, one layer
    entry = index["manifests"][0]
    assert f"blobs/{entry['digest'].replace(':', '/')}" in blobs
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/x:1"


def test_only_the_newest_images_of_each_name_are_kept(tmp_path: Path) -> None:
    history = tmp_path / "history.json"
    for number in range(imageprune.KEPT):
        assert imageprune.remember(history, f"x:{number}", ["true"]) == []
    assert imageprune.remember(history, "y:0", ["true"]) == []
    assert imageprune.remember(history, "x:0", ["true"]) == []  # used again: the newest now
    assert imageprune.remember(history, "x:new", ["true"]) == ["x:1"]


def test_an_image_in_use_is_tried_again_later(tmp_path: Path) -> None:
    history = tmp_path / "history.json"
    for number in range(imageprune.KEPT + 1):
        assert imageprune.remember(history, f"x:{number}", ["false"]) == []
    assert imageprune.remember(history, "x:last", ["true"]) == ["x:0", "x:1"]


def test_the_control_plane_s_image_has_every_extra_that_those_it_names_need() -> None:
    """The recipe passes over extras that name other extras of ours: it must name those itself."""
    extras = tomllib.loads((TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = re.search(
        r'" ((?:[a-z]+ )+)> /requirements\.txt', IMAGES["trimtab"].containerfile.read_text(encoding="utf-8")
    )
    assert found is not None
    named = set(found[1].split())
    needed = {
        other
        for extra in named
        for line in extras[extra]
        if line.startswith("trimtab[")
        for other in line[len("trimtab[") : line.index("]")].split(",")
    }
    assert needed <= named
    assert "worker" in named
