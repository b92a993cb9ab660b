"""make-model and what is read of a model before it is loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from trimtab_engine.cli import main
from trimtab_engine.errors import UsageError
from trimtab_engine.makemodel import ModelShape, vocabulary, write_model
from trimtab_engine.modelinfo import inspect_model

SMALL = ModelShape(hidden=64, layers=1, vocab=300)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    one, two, other = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    assert write_model(one, SMALL) == write_model(two, SMALL)
    write_model(other, ModelShape(hidden=64, layers=1, vocab=300, seed=1))
    assert digest(one) == digest(two) != digest(other)


def test_the_bytes_do_not_change_from_release_to_release(tmp_path: Path) -> None:
    """Caches and recorded measurements refer to models by their arguments."""
    write_model(tmp_path / "m", SMALL)
    assert digest(tmp_path / "m") == "6fb8a78f56c42e7bb5528edfc18a4aca931d387763b8ab9c49ebf12c10ae4fe5"


@pytest.mark.parametrize("quantization", ["F16", "Q8_0", "Q4_0"])
def test_the_header_is_read_back(tmp_path: Path, quantization: str) -> None:
    path = tmp_path / "m.gguf"
    write_model(path, ModelShape(hidden=64, layers=1, vocab=300, quantization=quantization))
    info = inspect_model(path)
    assert (info.format, info.context_tokens, info.weights) == ("gguf", 4096, quantization)


def test_every_token_of_a_vocabulary_is_different_and_every_byte_has_one() -> None:
    tokens, merges = vocabulary(4096)
    assert len(tokens) == len(set(tokens)) == 4096
    assert len(merges) == 4096 - 3 - 256
    for merge in merges:
        left, right = merge.split(" ")
        assert left in tokens and right in tokens and left + right in tokens


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--hidden", "100"], "--hidden 100: must be a multiple of 64"),
        (["--layers", "0"], "--layers 0"),
        (["--quantization", "F64"], "--quantization F64: must be one of F16, Q8_0, Q4_0"),
        (["--vocab", "10"], "--vocab 10: must be from 259"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_a_shape_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["make-model", str(tmp_path / "m"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_an_error_not_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["make-model", str(tmp_path / "none" / "m"), "--hidden", "64", "--layers", "1"]) == 1
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize("length", [0, 3, 24, 500, 20_000])
def test_a_model_cut_short_is_refused_before_it_crashes_the_engine(tmp_path: Path, length: int) -> None:
    whole, cut = tmp_path / "m", tmp_path / "c"
    write_model(whole, SMALL)
    cut.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(UsageError, match="not a readable GGUF file"):
        inspect_model(cut)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        inspect_model(tmp_path / "none.gguf")
    with pytest.raises(UsageError, match=r"no openvino_model\.xml"):
        inspect_model(tmp_path)
    (tmp_path / "text").write_text("hello, this is a text and no model at all")
    with pytest.raises(UsageError, match="expected b'GGUF'"):
        inspect_model(tmp_path / "text")


def test_an_ir_folder_gives_its_context_length(tmp_path: Path) -> None:
    (tmp_path / "openvino_model.xml").write_text("<net/>")
    assert inspect_model(tmp_path).context_tokens == 4096
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    assert inspect_model(tmp_path).context_tokens == 2048
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json"):
        inspect_model(tmp_path)
