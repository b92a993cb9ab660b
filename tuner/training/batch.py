"""JSON lines in, JSON lines out: every line is answered, in order, and a bad one never stops the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, BinaryIO, TextIO

from controlplane.model.errors import InvalidSpec, TrimtabError
from tuner.serving.fields import MAX_LINE_BYTES, read_object
from tuner.training.predict import Predictor
from tuner.training.question import parse_case

MAX_LINES = 1_000_000
_REST_BYTES = 1 << 20


def run(
    source: BinaryIO, sink: TextIO, predictor: Predictor, *, progress: Callable[[int], None] | None = None
) -> tuple[int, int]:
    """Lines answered and errors among them."""
    done = errors = 0
    while line := source.readline(MAX_LINE_BYTES + 2):
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := source.readline(_REST_BYTES)) and not rest.endswith(b"\n"):
                pass
        if not line.strip():
            continue
        done += 1
        if done > MAX_LINES:
            error = InvalidSpec("too many lines", field="line", limit=str(MAX_LINES))
            sink.write(json.dumps({"id": None, "line": done, "error": error.as_dict()}) + "\n")
            return done, errors + 1
        answer = answer_line(line, predictor, done)
        errors += "error" in answer
        sink.write(json.dumps(answer, allow_nan=False, separators=(",", ":")) + "\n")
        if progress is not None:
            progress(done)
    sink.flush()
    return done, errors


def answer_line(line: bytes, predictor: Predictor, number: int) -> dict[str, Any]:
    """The answer to one line, or `id` and `error {code, field, message, ...}`; without an id, its `line`."""
    identity: object = None
    try:
        data = read_object(line)
        identity = data.get("id") if isinstance(data, dict) else None
        answer = {"id": identity, **predictor.answer(parse_case(data))}
        json.dumps(answer, allow_nan=False)  # a number that is none is this line's error, too
        return answer
    except TrimtabError as error:
        said = error
    except Exception as error:  # the contract: one line's fault, even ours, never stops the rest
        said = TrimtabError(f"{type(error).__name__}: {str(error)[:200]}", code="InternalError")
    usable = isinstance(identity, str | int) and not isinstance(identity, bool) and len(str(identity)) <= 200
    return {**({"id": identity} if usable else {"id": None, "line": number}), "error": said.as_dict()}
