"""JSON lines in, JSON lines out: every line is answered, in order, and a bad one never stops the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol, TextIO

from controlplane.model.errors import InvalidSpec, TrimtabError
from tuner.serving.fields import MAX_LINE_BYTES, read_object
from tuner.serving.question import Question, parse_question

MAX_LINES = 1_000_000
_DRAIN_BYTES = 1 << 20


class Answers(Protocol):
    """Answers questions one by one; `tuner.serving.predict.Predictor` is the one."""

    def answer(self, question: Question, *, per_request: bool = False) -> dict[str, Any]:
        """Raises TrimtabError with the field at fault."""
        ...


def run(
    source: BinaryIO,
    sink: TextIO,
    answers: Answers,
    *,
    per_request: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[int, int]:
    """Lines answered and errors among them. `progress` is told the number of lines done after each."""
    done = errors = 0
    for number, line in enumerate(_lines(source), start=1):  # empty lines count: an editor shows the same number
        if done == MAX_LINES:
            sink.write(_dumps(_error(None, InvalidSpec("too many lines", field="line", limit=str(MAX_LINES)), number)))
            return done, errors + 1
        if not line.strip():
            continue
        done += 1
        answer = answer_line(line, answers, number=number, per_request=per_request)
        errors += "error" in answer
        sink.write(_dumps(answer))
        if progress is not None:
            progress(done)
    sink.flush()
    return done, errors


def answer_line(line: bytes, answers: Answers, *, number: int, per_request: bool = False) -> dict[str, Any]:
    """The answer to one line, or `id` and `error {code, field, message, ...}`; without an id, its `line`."""
    identity: object = None
    try:
        data = read_object(line)
        identity = data.get("id") if isinstance(data, dict) else None
        question = parse_question(data)
        answer = {"id": question.id, **answers.answer(question, per_request=per_request)}
        _dumps(answer)  # a number that is none is this line's error, too
        return answer
    except TrimtabError as error:
        return _error(identity, error, number)
    except Exception as error:  # the contract: one line's fault, even ours, never stops the rest
        said = TrimtabError(f"{type(error).__name__}: {str(error)[:200]}", code="InternalError")
        return _error(identity, said, number)


def _error(identity: object, error: TrimtabError, number: int) -> dict[str, Any]:
    usable = isinstance(identity, str | int) and not isinstance(identity, bool) and len(str(identity)) <= 200
    where = {"id": identity} if usable else {"id": None, "line": number}
    return {**where, "error": error.as_dict()}


def _dumps(answer: dict[str, Any]) -> str:
    return json.dumps(answer, allow_nan=False, separators=(",", ":"), default=str) + "\n"


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Lines of bounded memory: of an overlong one only the beginning is kept, which is then refused."""
    while line := source.readline(MAX_LINE_BYTES + 2):
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := source.readline(_DRAIN_BYTES)) and not rest.endswith(b"\n"):
                pass
        yield line
