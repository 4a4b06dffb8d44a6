"""Many changes at once are one errand."""

import asyncio

from goodput_operator.controller.parts import Batch
from tests.virtual_time import run


def test_what_changes_together_is_told_together_and_nothing_twice() -> None:
    async def test() -> None:
        told: list[tuple[float, frozenset[str]]] = []
        loop = asyncio.get_running_loop()
        batch = Batch(0.5, lambda words: told.append((loop.time(), words)))
        for word in ("node1", "node2", "node1"):
            batch.add(word)
        await asyncio.sleep(0.4)
        batch.add("node3")
        await asyncio.sleep(1)
        batch.add("node1")
        await asyncio.sleep(1)
        assert told == [
            (0.5, frozenset({"node1", "node2", "node3"})),
            (1.9, frozenset({"node1"})),
        ]

    run(test())
