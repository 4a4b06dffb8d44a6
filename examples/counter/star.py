"""The smallest all-reduce: every rank sends its number to rank 0, which answers with the sum.

Like a collective of a real job it needs every rank at every step: if one is gone, all stand.
"""

import json
import os
import signal
import socket
import time
from typing import Dict, TextIO

CONNECT_SECONDS = 60.0


class Star:
    """The ranks of one attempt, connected over MASTER_ADDR:MASTER_PORT.

    With `hang` a rank that has lost its peers waits forever, as many a collective does;
    without, it raises ConnectionError.
    """

    def __init__(self, rank: int, world_size: int, hang: bool = False) -> None:
        self._rank = rank
        self._hang = hang
        self._peers: Dict[int, TextIO] = {}
        if world_size > 1:
            address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            if rank == 0:
                self._listen(address, world_size)
            else:
                self._peers[0] = _connect(address)
                self._send(0, {"rank": rank, "attempt": _attempt()})

    def sum(self, number: int) -> int:
        """Return the sum of the numbers of all ranks."""
        if self._rank == 0:
            for peer in self._peers:
                number += self._receive(peer)
            for peer in self._peers:
                self._send(peer, number)
        elif self._peers:
            self._send(0, number)
            number = self._receive(0)
        return number

    def _listen(self, address, world_size: int) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.create_server(("", address[1]), family=family) as server:
            server.settimeout(CONNECT_SECONDS)
            while len(self._peers) < world_size - 1:
                stream = _stream(server.accept()[0])
                hello = json.loads(stream.readline() or "{}")
                if hello.get("attempt") == _attempt():  # else a straggler of the last attempt
                    self._peers[hello["rank"]] = stream

    def _send(self, peer: int, value) -> None:
        try:
            self._peers[peer].write(json.dumps(value) + "\n")
            self._peers[peer].flush()
        except OSError:
            self._lost(peer)

    def _receive(self, peer: int) -> int:
        try:
            line = self._peers[peer].readline()
        except OSError:
            line = ""
        return json.loads(line) if line.endswith("\n") else self._lost(peer)

    def _lost(self, peer: int):
        while self._hang:
            signal.pause()
        raise ConnectionError(f"rank {peer} is gone")


def _attempt() -> str:
    return os.environ.get("GOODPUT_ATTEMPT", "")


def _connect(address) -> TextIO:
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return _stream(socket.create_connection(address, timeout=CONNECT_SECONDS))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _stream(connection: socket.socket) -> TextIO:
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection.makefile("rw")
