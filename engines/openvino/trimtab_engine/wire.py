"""The messages between the HTTP process and the engine process: length-prefixed frames on a socket pair.

A frame is `u32 payload length, u8 kind, payload`, little endian. One STEP frame carries everything that one engine
step produced, so that the cost of a message is paid per step and not per token. Both ends are this package, so there
is no versioning; sizes are still bounded, because a corrupt length must not become an allocation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from trimtab_engine.errors import WireError

MAX_FRAME_BYTES: Final = 64 << 20

SUBMIT: Final = 1
CANCEL: Final = 2
READY: Final = 16
STEP: Final = 17

PROMPT_TEXT: Final = 0
PROMPT_TOKENS: Final = 1
PROMPT_CHAT: Final = 2

RUNNING: Final = 0
FINISH_STOP: Final = 1
FINISH_LENGTH: Final = 2
FINISH_REJECTED: Final = 3  # the client's fault: `text` is a JSON object message/param/code
FINISH_FAILED: Final = 4  # the engine's fault: same
FINISH_CANCELLED: Final = 5

_FRAME: Final = struct.Struct("<IB")
_SUBMIT: Final = struct.Struct("<QBBIIIffffffQHHI")
_STEP: Final = struct.Struct("<IfQI")
_EVENT: Final = struct.Struct("<QBBIII")

_IGNORE_EOS: Final = 1
_SAMPLE: Final = 2
_DETAILS: Final = 4


@dataclass(frozen=True, slots=True)
class Submit:
    """One generation request, already checked field by field. `prompt` is UTF-8 text, int32 ids, or chat JSON."""

    request_id: int
    prompt_kind: int
    prompt: bytes
    max_tokens: int
    min_tokens: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 = no limit
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    ignore_eos: bool = False
    details: bool = False  # also send token ids and log-probabilities
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


@dataclass(slots=True)
class Event:
    """What one step did to one request. `tokens` counts every generated id, also those without text."""

    request_id: int
    finish: int
    tokens: int
    prompt_tokens: int
    text: bytes
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(slots=True)
class Step:
    """One engine step: its load figures and the events. `kv_usage` is the used share of the KV cache, 0..1."""

    running: int
    kv_usage: float
    kv_bytes: int
    events: list[Event] = field(default_factory=list)


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame. Raises WireError when the payload is over MAX_FRAME_BYTES."""
    if len(payload) > MAX_FRAME_BYTES:
        raise WireError(f"frame of {len(payload)} bytes: the limit is {MAX_FRAME_BYTES}")
    return _FRAME.pack(len(payload), kind) + payload


class FrameReader:
    """Cuts a byte stream into frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The (kind, payload) pairs completed by `data`. Raises WireError on a length over the limit."""
        buffer = self._buffer
        buffer += data
        frames = []
        start = 0
        while len(buffer) - start >= _FRAME.size:
            length, kind = _FRAME.unpack_from(buffer, start)
            if length > MAX_FRAME_BYTES:
                raise WireError(f"frame of {length} bytes: the limit is {MAX_FRAME_BYTES}")
            end = start + _FRAME.size + length
            if len(buffer) < end:
                break
            frames.append((kind, bytes(buffer[start + _FRAME.size : end])))
            start = end
        if start:
            del buffer[:start]
        return frames


def encode_submit(submit: Submit) -> bytes:
    """The SUBMIT frame of a request."""
    flags = (
        (_IGNORE_EOS if submit.ignore_eos else 0)
        | (_SAMPLE if submit.sample else 0)
        | (_DETAILS if submit.details else 0)
    )
    parts = [
        _SUBMIT.pack(
            submit.request_id,
            submit.prompt_kind,
            flags,
            submit.max_tokens,
            submit.min_tokens,
            submit.top_k,
            submit.temperature,
            submit.top_p,
            submit.min_p,
            submit.repetition_penalty,
            submit.presence_penalty,
            submit.frequency_penalty,
            submit.seed,
            len(submit.stop),
            len(submit.stop_token_ids),
            len(submit.prompt),
        )
    ]
    for stop in submit.stop:
        encoded = stop.encode()
        parts.append(struct.pack("<H", len(encoded)))
        parts.append(encoded)
    parts.append(struct.pack(f"<{len(submit.stop_token_ids)}I", *submit.stop_token_ids))
    parts.append(submit.prompt)
    return frame(SUBMIT, b"".join(parts))


def decode_submit(payload: bytes) -> Submit:
    """The request of a SUBMIT payload. Raises WireError when it is cut short."""
    try:
        (
            request_id,
            prompt_kind,
            flags,
            max_tokens,
            min_tokens,
            top_k,
            temperature,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            seed,
            stops,
            stop_ids,
            prompt_bytes,
        ) = _SUBMIT.unpack_from(payload)
        at = _SUBMIT.size
        stop = []
        for _ in range(stops):
            (length,) = struct.unpack_from("<H", payload, at)
            stop.append(payload[at + 2 : at + 2 + length].decode())
            at += 2 + length
        stop_token_ids = struct.unpack_from(f"<{stop_ids}I", payload, at)
        at += 4 * stop_ids
    except (struct.error, UnicodeDecodeError) as error:
        raise WireError(f"SUBMIT payload of {len(payload)} bytes is malformed: {error}") from error
    prompt = payload[at:]
    if len(prompt) != prompt_bytes:
        raise WireError(f"SUBMIT payload: the prompt has {len(prompt)} bytes, {prompt_bytes} announced")
    return Submit(
        request_id=request_id,
        prompt_kind=prompt_kind,
        prompt=prompt,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        sample=bool(flags & _SAMPLE),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        ignore_eos=bool(flags & _IGNORE_EOS),
        details=bool(flags & _DETAILS),
        stop=tuple(stop),
        stop_token_ids=stop_token_ids,
    )


def encode_cancel(request_id: int) -> bytes:
    """The CANCEL frame of a request."""
    return frame(CANCEL, struct.pack("<Q", request_id))


def decode_cancel(payload: bytes) -> int:
    """The request id of a CANCEL payload. Raises WireError when it is not 8 bytes."""
    if len(payload) != 8:
        raise WireError(f"CANCEL payload of {len(payload)} bytes: must be 8")
    return int.from_bytes(payload, "little")


def encode_step(step: Step) -> bytes:
    """The STEP frame of a step."""
    parts = [_STEP.pack(step.running, step.kv_usage, step.kv_bytes, len(step.events))]
    for event in step.events:
        ids = event.token_ids
        parts.append(
            _EVENT.pack(event.request_id, event.finish, bool(ids), event.tokens, event.prompt_tokens, len(event.text))
        )
        parts.append(event.text)
        if ids:
            parts.append(struct.pack(f"<{event.tokens}I{event.tokens}f", *ids, *event.logprobs))
    return frame(STEP, b"".join(parts))


def decode_step(payload: bytes) -> Step:
    """The step of a STEP payload. Raises WireError when it is cut short."""
    try:
        running, kv_usage, kv_bytes, count = _STEP.unpack_from(payload)
        step = Step(running, kv_usage, kv_bytes)
        at = _STEP.size
        for _ in range(count):
            request_id, finish, details, tokens, prompt_tokens, length = _EVENT.unpack_from(payload, at)
            at += _EVENT.size
            text = payload[at : at + length]
            if len(text) != length:
                raise WireError(f"STEP payload of {len(payload)} bytes: cut short in a text")
            at += length
            event = Event(request_id, finish, tokens, prompt_tokens, text)
            if details:
                event.token_ids = struct.unpack_from(f"<{tokens}I", payload, at)
                event.logprobs = struct.unpack_from(f"<{tokens}f", payload, at + 4 * tokens)
                at += 8 * tokens
            step.events.append(event)
    except struct.error as error:
        raise WireError(f"STEP payload of {len(payload)} bytes is malformed: {error}") from error
    return step
