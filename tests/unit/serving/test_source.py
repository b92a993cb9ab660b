"""Model sources: three schemes, no way out of their root."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec
from operators.serving.source import MODEL_MOUNT, parse


@pytest.mark.parametrize(
    ("text", "model", "claim", "revision"),
    [
        ("pvc:models", MODEL_MOUNT, "models", None),
        ("pvc:models/a/b.gguf", f"{MODEL_MOUNT}/a/b.gguf", "models", None),
        ("pvc:models/a/", f"{MODEL_MOUNT}/a", "models", None),
        ("image:/models/tiny.gguf", "/models/tiny.gguf", None, None),
        ("hf:org/repo", "org/repo", None, None),
        ("hf:org/repo@v1.0", "org/repo", None, "v1.0"),
    ],
)
def test_accepted(text: str, model: str, claim: str | None, revision: str | None) -> None:
    source = parse(text)
    assert (source.model, source.claim, source.revision) == (model, claim, revision)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models/a",
        "/models/a",
        "file:/etc/passwd",
        "http://internal/weights",
        "https://example.com/x",
        "s3://bucket/x",
        "hostPath:/etc",
        "pvc:",
        "pvc:Models/a",
        "pvc:models/../etc",
        "pvc:models//etc",
        "pvc:models/.hidden",
        "pvc:models/a b",
        "image:models",
        "image:/",
        "image:/../etc",
        "image:/a/$(SECRET)",
        "hf:repo",
        "hf:org/repo/extra",
        "hf:../repo",
        "hf:org/repo@",
        "hf:org/repo@../x",
        "hf:--flag/x",
        "hf:org/-x",
    ],
)
def test_refused_with_field_and_limit(text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse(text)
    assert caught.value.field == "spec.model.source"
    assert caught.value.value == text
    assert caught.value.limit


@given(st.from_regex(r"(pvc:claim/|image:/|hf:o/)[ -~]{0,40}", fullmatch=True))
def test_an_accepted_source_never_leaves_its_root_nor_reads_as_a_flag(text: str) -> None:
    try:
        source = parse(text)
    except InvalidSpec:
        return
    assert ".." not in source.model.split("/")
    assert not source.model.startswith("-")
    assert "$" not in source.model and " " not in source.model
