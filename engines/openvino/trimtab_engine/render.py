"""Answers in OpenAI's shapes. What does not change within a request is rendered once, per token only the text is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from trimtab_engine import wire
from trimtab_engine.errors import ApiError
from trimtab_engine.openai import Ask

DONE: Final = b"data: [DONE]\n\n"
_FINISH: Final = {wire.RUNNING: None, wire.FINISH_STOP: "stop", wire.FINISH_LENGTH: "length"}


def finish_reason(finish: int) -> str | None:
    """OpenAI's word for a wire finish code."""
    return _FINISH[finish]


def error_event(error: ApiError) -> bytes:
    """A failure inside a stream that has begun."""
    return b"data: " + json.dumps(error.body()).encode() + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Renderer:
    """Renders one request's answer."""

    def __init__(self, ask: Ask, identity: str, model: str, created_s: int) -> None:
        self._ask = ask
        self._common = {"id": identity, "created": created_s, "model": model}
        self._first = True
        kind = "chat.completion.chunk" if ask.chat else "text_completion"
        head = f"data: {json.dumps({**self._common, 'object': kind})[:-1]}, "
        self._head = head + '"choices": [{"index": 0, '
        self._usage_head = head + '"choices": [], "usage": '
        self._null_usage = ', "usage": null' if ask.include_usage else ""

    def chunk(self, event: wire.Event) -> bytes:
        """The stream event of one engine event."""
        text = encode_basestring_ascii(event.text.decode())
        if self._ask.chat:
            if self._first:
                self._first = False
                content = f'"delta": {{"role": "assistant", "content": {text}}}'
            else:
                content = f'"delta": {{"content": {text}}}'
        else:
            content = f'"text": {text}'
        reason = _FINISH[event.finish]
        finish = f'"{reason}"' if reason else "null"
        details = self._details_json([event]) if self._ask.submit.details else '"logprobs": null'
        return f'{self._head}{content}, {details}, "finish_reason": {finish}}}]{self._null_usage}}}\n\n'.encode()

    def last(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        """The end of the stream, with usage if it was asked for."""
        if not self._ask.include_usage:
            return DONE
        return f"{self._usage_head}{json.dumps(usage(prompt_tokens, completion_tokens))}}}\n\n".encode() + DONE

    def whole(self, events: Sequence[wire.Event]) -> bytes:
        """The answer to a request that did not ask for a stream; `events` has at least one, the last is final."""
        text = b"".join(event.text for event in events).decode()
        choice: dict[str, Any] = {"index": 0, "finish_reason": _FINISH[events[-1].finish], "logprobs": None}
        if self._ask.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if self._ask.submit.details:
            choice.update(self._details(events))
        return json.dumps(
            {
                **self._common,
                "object": "chat.completion" if self._ask.chat else "text_completion",
                "choices": [choice],
                "usage": usage(events[-1].prompt_tokens, sum(event.tokens for event in events)),
            }
        ).encode()

    def _details_json(self, events: Sequence[wire.Event]) -> str:
        return json.dumps(self._details(events))[1:-1]

    def _details(self, events: Sequence[wire.Event]) -> dict[str, Any]:
        """Log-probabilities of the chosen tokens, and their ids in place of text: a token may be part of a character."""
        found: dict[str, Any] = {"logprobs": None}
        ids = [token for event in events for token in event.token_ids]
        if self._ask.logprobs:
            values = [value for event in events for value in event.logprobs]
            names = [f"token_id:{token}" for token in ids]
            if self._ask.chat:
                found["logprobs"] = {
                    "content": [
                        {"token": name, "logprob": value, "bytes": None, "top_logprobs": []}
                        for name, value in zip(names, values, strict=True)
                    ]
                }
            else:
                found["logprobs"] = {
                    "tokens": names,
                    "token_logprobs": values,
                    "top_logprobs": None,
                    "text_offset": None,
                }
        if self._ask.return_token_ids:
            found["token_ids"] = ids
        return found
