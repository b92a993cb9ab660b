"""The forwarder's DNS messages, and a connection through it."""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster import forwarder


def answer_to(query: bytes, addresses: list[str], code: int = 0, cname: bool = False) -> bytes:
    identity = struct.unpack_from(">H", query)[0]
    records = b""
    if cname:
        records += b"\xc0\x0c" + struct.pack(">HHIH", 5, 1, 5, 2) + b"\xc0\x0c"
    for address in addresses:
        records += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + socket.inet_aton(address)
    count = len(addresses) + cname
    return struct.pack(">HHHHHH", identity, 0x8180 | code, 1, count, 0, 0) + query[12:] + records


def test_addresses_are_read_past_the_question_and_other_records() -> None:
    query = forwarder.dns_query("sample.default.svc.cluster.local", 7)
    assert forwarder.dns_addresses(answer_to(query, ["10.96.0.5", "10.96.0.6"], cname=True), 7) == [
        "10.96.0.5",
        "10.96.0.6",
    ]


def test_failures_and_answers_to_other_questions_hold_no_address() -> None:
    query = forwarder.dns_query("gone.default.svc.cluster.local", 7)
    assert forwarder.dns_addresses(answer_to(query, ["10.0.0.1"], code=3), 7) == []
    assert forwarder.dns_addresses(answer_to(query, ["10.0.0.1"]), 8) == []
    assert forwarder.dns_addresses(query, 7) == []


@given(st.binary(max_size=200), st.integers(0, 65535))
def test_nonsense_never_raises(message: bytes, identity: int) -> None:
    assert isinstance(forwarder.dns_addresses(message, identity), list)


def test_forward_words() -> None:
    assert forwarder.parse_forward("16443=10.213.0.2:6443") == (16443, "10.213.0.2", 6443)
    for wrong in ("16443", "x=y:1", "1=:2", "1=host"):
        with pytest.raises(argparse.ArgumentTypeError):
            forwarder.parse_forward(wrong)


async def test_bytes_go_both_ways_and_a_half_close_is_passed_on() -> None:
    async def echo_upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())  # read() returns at the half close only
        await writer.drain()
        writer.close()

    target = await asyncio.start_server(echo_upper, "127.0.0.1", 0)
    port = target.sockets[0].getsockname()[1]
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(forwarder.run([(listener, "127.0.0.1", port)], "127.0.0.1"))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"hello" * 50_000)
    writer.write_eof()

    received = await asyncio.wait_for(reader.read(), 10)

    assert received == b"HELLO" * 50_000
    writer.close()
    serving.cancel()
    target.close()


async def test_a_target_that_is_not_there_ends_the_connection() -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(forwarder.run([(listener, "127.0.0.1", port)], "127.0.0.1"))
    reader, writer = await asyncio.open_connection(*listener.getsockname())

    try:
        received = await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        received = b""

    assert received == b""
    writer.close()
    serving.cancel()
