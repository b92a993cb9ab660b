"""The framing between the two processes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_engine import wire
from trimtab_engine.errors import WireError

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
f32 = st.floats(width=32, allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

submits = st.builds(
    wire.Submit,
    request_id=u64,
    prompt_kind=st.sampled_from([wire.PROMPT_TEXT, wire.PROMPT_TOKENS, wire.PROMPT_CHAT]),
    prompt=st.binary(max_size=200),
    max_tokens=u32,
    min_tokens=u32,
    sample=st.booleans(),
    temperature=f32,
    top_p=f32,
    top_k=u32,
    min_p=f32,
    repetition_penalty=f32,
    presence_penalty=f32,
    frequency_penalty=f32,
    seed=u64,
    ignore_eos=st.booleans(),
    details=st.booleans(),
    stop=st.lists(text, max_size=4).map(tuple),
    stop_token_ids=st.lists(u32, max_size=4).map(tuple),
)


@st.composite
def events(draw: st.DrawFn) -> wire.Event:
    tokens = draw(st.integers(0, 5))
    detailed = tokens and draw(st.booleans())
    return wire.Event(
        draw(u64),
        draw(st.integers(0, 5)),
        tokens,
        draw(u32),
        draw(text).encode(),
        tuple(draw(st.lists(u32, min_size=tokens, max_size=tokens))) if detailed else (),
        tuple(draw(st.lists(f32, min_size=tokens, max_size=tokens))) if detailed else (),
    )


steps = st.builds(wire.Step, running=u32, kv_usage=f32, kv_bytes=u64, events=st.lists(events(), max_size=5))


def payload_of(data: bytes) -> bytes:
    ((_, payload),) = wire.FrameReader().feed(data)
    return payload


@given(submits)
def test_a_submit_survives_the_wire(submit: wire.Submit) -> None:
    assert wire.decode_submit(payload_of(wire.encode_submit(submit))) == submit


@given(steps)
def test_a_step_survives_the_wire(step: wire.Step) -> None:
    assert wire.decode_step(payload_of(wire.encode_step(step))) == step


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8), st.data())
def test_frames_do_not_depend_on_how_the_stream_is_cut(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(wire.frame(kind, payload) for kind, payload in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = wire.FrameReader()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == frames


@given(submits, st.data())
def test_a_submit_cut_short_is_an_error_and_nothing_else(submit: wire.Submit, data: st.DataObject) -> None:
    payload = payload_of(wire.encode_submit(submit))
    with pytest.raises(WireError):
        wire.decode_submit(payload[: data.draw(st.integers(0, len(payload) - 1))])


@given(steps, st.data())
def test_a_step_cut_short_is_an_error_and_nothing_else(step: wire.Step, data: st.DataObject) -> None:
    payload = payload_of(wire.encode_step(step))
    with pytest.raises(WireError):
        wire.decode_step(payload[: data.draw(st.integers(0, len(payload) - 1))])


def test_a_corrupt_length_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(WireError, match="limit"):
        wire.FrameReader().feed(struct.pack("<IB", wire.MAX_FRAME_BYTES + 1, wire.STEP))


def test_cancel_carries_the_id() -> None:
    assert wire.decode_cancel(payload_of(wire.encode_cancel(2**63 + 5))) == 2**63 + 5
    with pytest.raises(WireError):
        wire.decode_cancel(b"1234567")
