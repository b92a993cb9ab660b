"""JSON lines: order, ids, errors that stay on their line, bounded memory."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.model.errors import UnknownName
from tests.unit.tuner.predict.test_question import LINE
from tuner.serving import batch
from tuner.serving.question import FIELDS, Question


class _Echo:
    """Answers with the model's name; some models are trouble."""

    def answer(self, question: Question, *, per_request: bool = False) -> dict[str, Any]:
        if question.model == "unknown":
            raise UnknownName("unknown model", field="model", value="unknown", hint="did you mean llama?")
        if question.model == "broken":
            raise ZeroDivisionError("division by zero")
        if question.model == "nan":
            return {"ttft_ms": float("nan")}
        return {"model": question.model, "arrays": per_request}


def _run(*lines: object, per_request: bool = False) -> list[dict[str, Any]]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    sink = io.StringIO()
    batch.run(io.BytesIO(text.encode()), sink, _Echo(), per_request=per_request)
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_every_line_is_answered_in_order() -> None:
    answers = _run(
        LINE,
        "{",
        LINE | {"id": "b", "model": "unknown"},
        "",
        LINE | {"id": 3, "model": "broken"},
        LINE | {"id": "d", "model": "nan"},
        LINE | {"id": "e", "tp": 0},
        LINE | {"id": None},
        LINE | {"id": "last"},
    )
    assert [answer["id"] for answer in answers] == ["a", None, "b", 3, "d", "e", None, "last"]
    codes = [answer.get("error", {}).get("code") for answer in answers]
    assert codes == [None, "InvalidSpec", "UnknownName", "InternalError", "InternalError", "InvalidSpec", None, None]
    assert answers[1]["line"] == 2
    assert answers[2]["error"] == {
        "code": "UnknownName",
        "message": "unknown model",
        "field": "model",
        "value": "unknown",
        "hint": "did you mean llama?",
    }


def test_the_line_of_an_error_is_the_files_own() -> None:
    assert [answer["line"] for answer in _run("", "{", "", "", "{")] == [2, 5]


def test_ids_that_are_none_are_not_repeated() -> None:
    (answer,) = _run(LINE | {"id": {"deep": 1}})
    assert answer["id"] is None
    assert answer["error"]["field"] == "id"


def test_overlong_lines_are_refused_and_skipped() -> None:
    long = json.dumps(LINE | {"model": "x" * 3_000_000})
    answers = _run(LINE, long, LINE)
    assert [answer.get("error", {}).get("field") for answer in answers] == [None, "line", None]


def test_a_line_of_exactly_the_limit_is_read() -> None:
    line = json.dumps(LINE)
    padded = line + " " * (batch.MAX_LINE_BYTES - len(line) - 1)
    assert [answer["id"] for answer in _run(padded, padded + "  ", LINE)] == ["a", None, "a"]


def test_too_many_lines_end_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_LINES", 2)
    answers = _run(LINE, LINE, LINE, LINE)
    assert len(answers) == 3
    assert answers[-1]["error"]["message"] == "too many lines"


def test_per_request_is_passed_on() -> None:
    assert _run(LINE, per_request=True)[0]["arrays"] is True


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=8), _JSON, max_size=6), max_size=4))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_sent_every_line_is_answered(changes: list[dict[str, Any]]) -> None:
    answers = _run(*(LINE | change for change in changes))
    assert len(answers) == len(changes)
    for answer in answers:
        assert "id" in answer
        if "error" in answer:
            assert answer["error"]["code"] != "InternalError"
            assert answer["error"]["message"]


@given(st.binary(max_size=300).filter(lambda data: b"\n" not in data and data.strip()))
@settings(deadline=None, max_examples=200)
def test_bytes_that_are_no_json_are_an_error(data: bytes) -> None:
    sink = io.StringIO()
    assert batch.run(io.BytesIO(data), sink, _Echo())[0] == 1
    assert json.loads(sink.getvalue())["error"]["code"] in ("InvalidSpec", "UnknownName")


def test_windows_line_ends_and_a_byte_order_mark() -> None:
    sink = io.StringIO()
    batch.run(io.BytesIO(b"\xef\xbb\xbf" + json.dumps(LINE).encode() + b"\r\n"), sink, _Echo())
    assert json.loads(sink.getvalue())["id"] == "a"
