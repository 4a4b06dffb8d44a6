"""One TLS connection without the server around it: what is written, and when it is over."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

from goodput.protocol import SERVER_NAME
from goodput_operator.reports.tls import Channel
from tests.unit.reports.test_server import IDENTITY, until

LONG = bytes(range(256)) * 4_096  # a megabyte, more than the buffers of a pair of sockets hold


class Heard:
    """Keeps what a channel tells."""

    def __init__(self) -> None:
        self.agreed = False
        self.data = b""
        self.ends = 0

    def established(self) -> None:
        self.agreed = True

    def data_received(self, data: bytes) -> None:
        self.data += data

    def lost(self) -> None:
        self.ends += 1


class Pair:
    """A channel, and its peer as a socket that blocks."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        ours, self.plain = socket.socketpair()
        ours.setblocking(False)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        IDENTITY.load_into(context)
        self.heard = Heard()
        self.channel = Channel(ours, context, self.heard, loop)

    async def agree(self) -> ssl.SSLSocket:
        trust = ssl.create_default_context(cadata=IDENTITY.pem)
        peer = await asyncio.to_thread(trust.wrap_socket, self.plain, server_hostname=SERVER_NAME)
        await until(lambda: self.heard.agreed)
        return peer


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(limited())


def read(peer: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += peer.recv(size - len(data))
    return data


def test_an_answer_that_fits_no_buffer_arrives_whole_once_it_is_read() -> None:
    async def story() -> None:
        pair = Pair()
        peer = await pair.agree()
        pair.channel.write(LONG)
        assert await asyncio.to_thread(read, peer, len(LONG)) == LONG
        pair.channel.write(b"and on")
        assert await asyncio.to_thread(read, peer, 6) == b"and on"
        assert not pair.channel.closed
        pair.channel.abort()
        peer.close()

    run(story)


def test_a_peer_that_has_not_read_its_answer_gets_no_other_and_is_cut_off() -> None:
    async def story() -> None:
        pair = Pair()
        peer = await pair.agree()
        pair.channel.write(LONG)
        assert not pair.channel.closed
        pair.channel.write(b"more")
        assert pair.channel.closed
        assert pair.heard.ends == 1
        pair.channel.write(b"more")
        pair.channel.finish()
        pair.channel.abort()
        assert pair.heard.ends == 1
        peer.close()

    run(story)


def test_after_the_farewell_it_is_over_when_the_peer_hangs_up() -> None:
    async def story() -> None:
        pair = Pair()
        peer = await pair.agree()
        pair.channel.write(b"the last")
        pair.channel.finish()
        assert await asyncio.to_thread(peer.recv, 100) == b"the last"
        assert await asyncio.to_thread(peer.recv, 100) == b""
        peer.send(b"already under way")
        assert not pair.heard.ends
        peer.close()
        await until(lambda: pair.heard.ends == 1)
        assert pair.channel.closed

    run(story)


def test_a_peer_that_hangs_up_during_the_handshake_is_told_of_once() -> None:
    async def story() -> None:
        pair = Pair()
        pair.plain.send(b"\x16\x03\x01")
        pair.plain.close()
        await until(lambda: pair.channel.closed)
        assert not pair.heard.agreed
        assert pair.heard.ends == 1

    run(story)
