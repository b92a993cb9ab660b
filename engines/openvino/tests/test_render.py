"""Answers: framing of server-sent events and OpenAI's shapes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trimtab_engine import wire
from trimtab_engine.errors import ApiError
from trimtab_engine.openai import Ask
from trimtab_engine.render import DONE, Renderer, error_event

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def renderer(*, chat: bool = False, usage: bool = False, logprobs: bool = False, ids: bool = False) -> Renderer:
    submit = wire.Submit(1, wire.PROMPT_TEXT, b"x", 5, details=logprobs or ids)
    return Renderer(Ask(submit, chat, True, usage, logprobs, ids), "id-1", 'odd "name"\n', 1700000000)


def objects(data: bytes) -> list[Any]:
    assert data.endswith(b"\n\n")
    found = []
    for event in data[:-2].split(b"\n\n"):
        assert event.startswith(b"data: ") and b"\n" not in event
        found.append(json.loads(event[6:]))
    return found


@given(unicode_text, st.booleans())
def test_any_text_survives_the_framing(text: str, chat: bool) -> None:
    (chunk,) = objects(renderer(chat=chat).chunk(wire.Event(1, 0, 1, 3, text.encode())))
    choice = chunk["choices"][0]
    assert (choice["delta"]["content"] if chat else choice["text"]) == text
    assert chunk["model"] == 'odd "name"\n'
    assert choice["finish_reason"] is None


def test_a_chat_stream_has_the_role_once_and_usage_last() -> None:
    render = renderer(chat=True, usage=True)
    first, second = (objects(render.chunk(wire.Event(1, f, 1, 3, b"a")))[0] for f in (0, wire.FINISH_LENGTH))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert second["choices"][0]["delta"] == {"content": "a"}
    assert second["choices"][0]["finish_reason"] == "length"
    assert first["object"] == "chat.completion.chunk" and first["usage"] is None
    last = render.last(3, 2)
    assert last.endswith(DONE)
    (usage,) = objects(last.removesuffix(DONE))
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert renderer().last(3, 2) == DONE


def test_a_whole_answer_adds_up() -> None:
    events = [wire.Event(1, 0, 1, 3, "é".encode()), wire.Event(1, wire.FINISH_STOP, 2, 3, b"b")]
    answer = json.loads(renderer().whole(events))
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "finish_reason": "stop", "logprobs": None, "text": "éb"}]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    chat = json.loads(renderer(chat=True).whole(events))
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "éb"}


def test_details_are_in_chunks_and_whole_answers() -> None:
    event = wire.Event(1, wire.FINISH_LENGTH, 2, 3, b"ab", (7, 8), (-0.5, -1.0))
    (chunk,) = objects(renderer(logprobs=True, ids=True).chunk(event))
    choice = chunk["choices"][0]
    assert choice["token_ids"] == [7, 8]
    assert choice["logprobs"]["token_logprobs"] == [-0.5, -1.0]
    whole = json.loads(renderer(chat=True, logprobs=True).whole([event]))
    assert [entry["logprob"] for entry in whole["choices"][0]["logprobs"]["content"]] == [-0.5, -1.0]


def test_an_error_event_is_openais_error_object() -> None:
    (event,) = objects(error_event(ApiError(502, "gone", "engine_lost")))
    assert event == {"error": {"message": "gone", "type": "server_error", "param": None, "code": "engine_lost"}}
