"""OpenAI request bodies to checked generation requests. What cannot be honoured is refused, never ignored."""

from __future__ import annotations

import difflib
import json
import secrets
from array import array
from dataclasses import dataclass
from typing import Any, Final

from trimtab_engine import fields, wire
from trimtab_engine.errors import ApiError

DEFAULT_COMPLETION_TOKENS: Final = 16  # OpenAI's default for /v1/completions
_MAX_STOPS: Final = 16
_MAX_STOP_CHARACTERS: Final = 1024
_MAX_MESSAGES: Final = 1024
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")

_COMMON: Final = frozenset(
    {
        "model", "stream", "stream_options", "max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p",
        "seed", "stop", "stop_token_ids", "ignore_eos", "presence_penalty", "frequency_penalty", "repetition_penalty",
        "n", "user", "metadata", "logprobs", "logit_bias", "return_token_ids",
    }
)  # fmt: skip
_COMPLETION_FIELDS: Final = _COMMON | {"prompt", "echo", "best_of", "suffix"}
_CHAT_FIELDS: Final = _COMMON | {
    "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "response_format", "store",
    "parallel_tool_calls",
}  # fmt: skip
# Fields that change the answer and that this server does not have: (name, the values that mean "off", why not).
_UNSUPPORTED: Final[tuple[tuple[str, tuple[Any, ...], str], ...]] = (
    ("n", (1,), "one choice per request; send the request again for another"),
    ("best_of", (1,), "one choice per request"),
    ("echo", (False,), "the prompt is not repeated in the answer"),
    ("suffix", ("",), "insertion is not supported"),
    ("logit_bias", ({},), "logit_bias is not supported"),
    ("tools", ([],), "tool calls are not supported"),
    ("tool_choice", ("none", "auto"), "tool calls are not supported"),
    ("response_format", ({"type": "text"},), "constrained output is not supported"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server accepts, in tokens."""

    context_tokens: int
    max_prompt_tokens: int
    max_tokens: int

    @property
    def why_prompt(self) -> str:
        """Where the limit on prompts comes from."""
        if self.max_prompt_tokens < self.context_tokens - 1:
            return "with --no-dynamic-split-fuse a prompt must fit --max-num-batched-tokens"
        return f"the context length is {self.context_tokens}"


@dataclass(frozen=True, slots=True)
class Ask:
    """A checked request: what goes to the engine (its `request_id` is filled in later) and how to answer."""

    submit: wire.Submit
    chat: bool
    stream: bool
    include_usage: bool
    logprobs: bool
    return_token_ids: bool


def parse(body: bytes, *, chat: bool, served_model: str, limits: Limits) -> Ask:
    """Check a /v1/completions or /v1/chat/completions body. Raises ApiError on anything that cannot be honoured."""
    fields_of = _load(body)
    _check_names(fields_of, _CHAT_FIELDS if chat else _COMPLETION_FIELDS)
    model = fields_of.get("model")
    if model is not None and model != served_model:
        raise ApiError(
            404,
            f"model: {fields.shown(model)} is not served here; this server has {served_model!r}",
            "model_not_found",
            param="model",
        )
    for name, off, why in _UNSUPPORTED:
        value = fields_of.get(name)
        if value is not None and value not in off:
            raise fields.invalid(name, f"{fields.shown(value)}: {why}")
    logprobs = _logprobs(fields_of, chat)
    return_token_ids = fields.boolean(fields_of, "return_token_ids", False)
    stream = fields.boolean(fields_of, "stream", False)
    if chat:
        kind, prompt, least_tokens = wire.PROMPT_CHAT, _messages(fields_of), 1
    else:
        kind, prompt, least_tokens = _prompt(fields_of, limits)
    max_tokens = _max_tokens(fields_of, chat, limits, least_tokens)
    temperature = fields.number(fields_of, "temperature", 1.0, 0.0, 100.0)
    top_k = fields.integer(fields_of, "top_k", 0, -1, 2**31 - 1) or 0
    seed = fields.integer(fields_of, "seed", None, -(2**63), 2**63 - 1)
    submit = wire.Submit(
        request_id=0,
        prompt_kind=kind,
        prompt=prompt,
        max_tokens=max_tokens,
        min_tokens=fields.integer(fields_of, "min_tokens", 0, 0, max_tokens) or 0,
        sample=temperature > 0.0,
        temperature=temperature if temperature > 0.0 else 1.0,
        top_p=fields.number(fields_of, "top_p", 1.0, 1e-6, 1.0),
        top_k=max(0, top_k),
        min_p=fields.number(fields_of, "min_p", 0.0, 0.0, 1.0),
        repetition_penalty=fields.number(fields_of, "repetition_penalty", 1.0, 0.01, 100.0),
        presence_penalty=fields.number(fields_of, "presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=fields.number(fields_of, "frequency_penalty", 0.0, -2.0, 2.0),
        seed=(seed if seed is not None else secrets.randbits(63)) % 2**64,
        ignore_eos=fields.boolean(fields_of, "ignore_eos", False),
        details=logprobs or return_token_ids,
        stop=fields.strings(fields_of, "stop", _MAX_STOPS, _MAX_STOP_CHARACTERS),
        stop_token_ids=fields.integers(fields_of, "stop_token_ids", 256, 2**31 - 1),
    )
    return Ask(submit, chat, stream, _include_usage(fields_of, stream), logprobs, return_token_ids)


def _load(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"body: not valid JSON ({str(error)[:200]})", "invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"body: a JSON {type(value).__name__}, must be an object", "invalid_json")
    return value


def _check_names(body: dict[str, Any], known: frozenset[str]) -> None:
    for name in body:
        if name not in known:
            near = difflib.get_close_matches(name[:64], known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ApiError(
                400, f"{fields.shown(name)}: not a field of this request{hint}", "unknown_field", param=name[:64]
            )


def _logprobs(body: dict[str, Any], chat: bool) -> bool:
    """Only the chosen token's log-probability exists: chat `logprobs: true`, completions `logprobs: 0`."""
    why = "the engine gives the chosen token's log-probability, no alternatives"
    if chat:
        if fields.integer(body, "top_logprobs", 0, 0, 20):
            raise fields.invalid("top_logprobs", f"{body['top_logprobs']}: {why}; must be 0")
        return fields.boolean(body, "logprobs", False)
    if body.get("logprobs") is False:
        return False
    value = fields.integer(body, "logprobs", None, 0, 20)
    if value:
        raise fields.invalid("logprobs", f"{value}: {why}; must be 0")
    return value is not None


def _include_usage(body: dict[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise fields.invalid("stream_options", "only allowed with stream: true")
    if not isinstance(options, dict):
        raise fields.invalid("stream_options", f"{fields.shown(options)} is not an object")
    _check_names(options, frozenset({"include_usage"}))
    return fields.boolean(options, "include_usage", False)


def _max_tokens(body: dict[str, Any], chat: bool, limits: Limits, prompt_tokens: int) -> int:
    name = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    value = fields.integer(body, name, None, 1, limits.max_tokens)
    if value is not None:
        return value
    if chat:
        return 0  # "what the context leaves": only the engine process knows the prompt's length
    room = max(1, limits.context_tokens - prompt_tokens)
    return min(DEFAULT_COMPLETION_TOKENS, limits.max_tokens, room)


def _prompt(body: dict[str, Any], limits: Limits) -> tuple[int, bytes, int]:
    """Kind, encoded prompt, and the least number of tokens it can have."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        if not prompt:
            raise fields.invalid("prompt", "is empty; send some text")
        return wire.PROMPT_TEXT, fields.encodable("prompt", prompt), 1
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        return _prompt({"prompt": prompt[0]}, limits)
    if not isinstance(prompt, list) or not prompt or not all(type(token) is int for token in prompt):
        if isinstance(prompt, list) and len(prompt) > 1:
            raise fields.invalid("prompt", f"{len(prompt)} prompts; one prompt per request (a string or token ids)")
        raise fields.invalid("prompt", f"{fields.shown(prompt)} is not a string or a list of token ids")
    if len(prompt) > limits.max_prompt_tokens:
        raise ApiError(
            400,
            f"prompt: {len(prompt)} tokens; the limit is {limits.max_prompt_tokens} ({limits.why_prompt})",
            "context_length_exceeded",
            param="prompt",
        )
    try:
        return wire.PROMPT_TOKENS, array("i", prompt).tobytes(), len(prompt)
    except OverflowError as error:
        raise fields.invalid("prompt", "a token id is outside the model's vocabulary") from error


def _messages(body: dict[str, Any]) -> bytes:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise fields.invalid("messages", f"{fields.shown(messages)} is not a non-empty list")
    if len(messages) > _MAX_MESSAGES:
        raise fields.invalid("messages", f"{len(messages)} messages; the limit is {_MAX_MESSAGES}")
    clean = []
    for position, message in enumerate(messages):
        where = f"messages[{position}]"
        if not isinstance(message, dict):
            raise fields.invalid(where, f"{fields.shown(message)} is not an object")
        role = message.get("role")
        if role not in _ROLES:
            raise fields.invalid(f"{where}.role", f"{fields.shown(role)} is not one of {', '.join(_ROLES)}")
        if message.get("tool_calls"):
            raise fields.invalid(f"{where}.tool_calls", "tool calls are not supported")
        clean.append({"role": role, "content": _content(message.get("content"), where)})
    return json.dumps(clean).encode()


def _content(content: object, where: str) -> str:
    if isinstance(content, str):
        fields.encodable(f"{where}.content", content)
        return content
    if isinstance(content, list):
        texts = []
        for part in content:
            text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            if not isinstance(text, str):
                raise fields.invalid(f"{where}.content", f"{fields.shown(part)} is not a text part")
            fields.encodable(f"{where}.content", text)
            texts.append(text)
        return "\n".join(texts)
    raise fields.invalid(f"{where}.content", f"{fields.shown(content)} is not a string or a list of text parts")
