"""Pins, and the go.mod of another minor."""

from __future__ import annotations

import re

import pytest

from devcluster import build, versions
from devcluster.errors import DevclusterError
from devcluster.paths import PACKAGE

COMMITTED = (PACKAGE / "tools" / "kubernetes" / "go.mod").read_text(encoding="utf-8")


def test_the_default_pins_are_those_of_the_committed_modules() -> None:
    pins = versions.load()
    assert f"require k8s.io/kubernetes v{pins.kubernetes}\n" in COMMITTED
    for name, module in pins.modules.items():
        text = (PACKAGE / "tools" / name / "go.mod").read_text(encoding="utf-8")
        assert re.search(rf"{re.escape(module.path)} {re.escape(module.version)}\b", text), name


def test_every_go_line_is_met_by_the_minimum() -> None:
    minimum = versions.parse_go_version(versions.load().go_minimum)
    assert minimum is not None
    for file in (PACKAGE / "tools").glob("*/go.mod"):
        line = re.search(r"^go (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert line is not None
        wanted = versions.parse_go_version(line[1])
        assert wanted is not None and wanted <= minimum, file


def test_an_unknown_minor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DevclusterError, match=r"1\.35, 1\.36"):
        versions.load("1.20")


def test_the_older_minor_replaces_its_own_staging_modules_and_no_others() -> None:
    older = versions.load("1.35")
    text = versions.kubernetes_go_mod(COMMITTED, older)
    assert f"require k8s.io/kubernetes v{older.kubernetes}" in text
    targets = set(re.findall(r"=> k8s\.io/\S+ (\S+)", text))
    assert targets == {versions.staging_version(older.kubernetes)}
    assert "k8s.io/api => k8s.io/api " in text
    assert not any(f"k8s.io/{name} =>" in text for name in older.replace_without)
    assert "// indirect" not in text


def test_each_minor_has_its_own_cache_folder() -> None:
    assert versions.load("1.35").cache_key() != versions.load("1.36").cache_key()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("go1.26.8", (1, 26, 8)),
        ("go version go1.26 linux/amd64", (1, 26, 0)),
        ("1.25.1", (1, 25, 1)),
        ("go1.27rc1", (1, 27, 0)),
        ("devel", None),
    ],
)
def test_go_versions_are_read(text: str, expected: tuple[int, int, int] | None) -> None:
    assert versions.parse_go_version(text) == expected


def test_staging_versions_follow_the_release() -> None:
    assert versions.staging_version("1.36.3") == "v0.36.3"
    with pytest.raises(DevclusterError, match="not a Kubernetes version"):
        versions.staging_version("v1.36")


def test_programs_of_the_kubernetes_tool_know_their_version() -> None:
    flags = build.linker_flags("kubernetes", versions.load())
    assert f"gitVersion=v{versions.load().kubernetes}" in flags
    assert "gitMinor=36" in flags


def test_no_lock_file_names_a_registry() -> None:
    for file in (PACKAGE / "tools").glob("*/go.*"):
        assert "://" not in file.read_text(encoding="utf-8"), file
