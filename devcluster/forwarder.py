"""Forward ports of 127.0.0.1 into the cluster's network: a program of its own, run by path.

It listens on the host, then moves itself into the network namespace, so that its outgoing connections can reach
Service and pod addresses. Names are asked of the cluster's DNS for each connection: a Service may be made anew.

    forwarder.py --netns /run/netns/NAME --dns ADDRESS 16443=10.213.0.2:6443 18080=api.ns.svc.cluster.local:8000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import ipaddress
import os
import secrets
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000
CHUNK_BYTES = 65536
DNS_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 1.5
CONNECT_ATTEMPTS = 4
_QUERY_A, _CLASS_IN = 1, 1


def enter_namespace(path: str) -> None:
    """Move this thread, and what it starts from now on, into a network namespace. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(descriptor)


def dns_query(name: str, identity: int) -> bytes:
    """A DNS question for the IPv4 addresses of `name`."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.rstrip(".").split("."))
    return struct.pack(">HHHHHH", identity, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, _QUERY_A, _CLASS_IN)


def dns_addresses(answer: bytes, identity: int) -> list[str]:
    """IPv4 addresses in an answer to `dns_query`; empty for a failure, another question's answer or nonsense."""
    found = []
    with contextlib.suppress(struct.error, IndexError):
        number, flags, questions, answers, _, _ = struct.unpack_from(">HHHHHH", answer)
        if number != identity or flags & 0x000F or not flags & 0x8000:
            return []
        at = 12
        for _ in range(questions):
            at = _skip_name(answer, at) + 4
        for _ in range(answers):
            at = _skip_name(answer, at)
            kind, _, _, length = struct.unpack_from(">HHIH", answer, at)
            at += 10
            if kind == _QUERY_A and length == 4 and at + 4 <= len(answer):
                found.append(socket.inet_ntoa(answer[at : at + 4]))
            at += length
    return found


def _skip_name(message: bytes, at: int) -> int:
    while message[at]:
        if message[at] & 0xC0:
            return at + 2
        at += message[at] + 1
    return at + 1


class _Reply(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def resolve(host: str, dns: str) -> list[str]:
    """Addresses of a host: itself when it is an address, else what the cluster's DNS says. Raises OSError if nothing."""
    with contextlib.suppress(ValueError):
        return [str(ipaddress.IPv4Address(host))]
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(_Reply, remote_addr=(dns, 53))
    try:
        identity = secrets.randbelow(65536)
        transport.sendto(dns_query(host, identity))
        addresses = dns_addresses(await asyncio.wait_for(protocol.answer, DNS_TIMEOUT_S), identity)
    except TimeoutError as late:
        raise OSError(f"the cluster's DNS at {dns} does not answer") from late
    finally:
        transport.close()
    if not addresses:
        raise OSError(f"{host} does not exist (yet)")
    return addresses


async def connect(addresses: list[str], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to one of the addresses. A Service whose rules are just being written may swallow the first packet, and
    connection tracking then swallows its repeats: a new connection gets through where waiting would not."""
    for attempt in range(CONNECT_ATTEMPTS):
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await asyncio.open_connection(secrets.choice(addresses), port)
        except TimeoutError:
            if attempt == CONNECT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, dns: str) -> None:
    """Carry one connection both ways until both sides have finished."""
    try:
        addresses = await resolve(host, dns)
        out_reader, out_writer = await connect(addresses, port)
    except OSError as error:
        print(f"{host}:{port}: {error}", file=sys.stderr, flush=True)
        writer.transport.abort()
        return
    try:
        await asyncio.gather(_copy(reader, out_writer), _copy(out_reader, writer))
    except OSError:
        pass  # one side reset: the other is closed below
    finally:
        for one in (writer, out_writer):
            one.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def parse_forward(text: str) -> tuple[int, str, int]:
    """`16443=HOST:6443` -> (16443, HOST, 6443). Raises argparse.ArgumentTypeError."""
    local, _, target = text.partition("=")
    host, _, port = target.rpartition(":")
    if not (local.isdigit() and port.isdigit() and host):
        raise argparse.ArgumentTypeError(f"{text!r} is not PORT=HOST:PORT")
    return int(local), host, int(port)


async def run(listeners: list[tuple[socket.socket, str, int]], dns: str) -> None:
    """Serve all forwards until cancelled."""
    servers = []
    for listener, host, port in listeners:

        async def accept(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str = host, port: int = port
        ) -> None:
            await serve_one(reader, writer, host, port, dns)

        servers.append(await asyncio.start_server(accept, sock=listener))
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main() -> None:
    """Listen on 127.0.0.1, enter the namespace, serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--netns", required=True)
    parser.add_argument("--dns", required=True)
    parser.add_argument("forwards", nargs="+", type=parse_forward)
    options = parser.parse_args()
    listeners = []
    for local, host, port in options.forwards:
        listener = socket.create_server(("127.0.0.1", local), backlog=128)
        listeners.append((listener, host, port))
    enter_namespace(options.netns)
    asyncio.run(run(listeners, options.dns))


if __name__ == "__main__":
    main()
