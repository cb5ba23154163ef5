"""Readings that nobody waits for: quick ones are done, slow ones end, and a server's end does not wait for them."""

import asyncio
import threading

import pytest
from patience import PATIENCE_S, wait_for

from counterpoint.server import readers as room
from counterpoint.server.readers import Readers


@pytest.fixture
def readers(monkeypatch):
    monkeypatch.setattr(room, "SLOW_S", 0.05)
    monkeypatch.setattr(room, "MOST_INTERRUPTS", 10_000)
    made = Readers()
    yield made
    made.close()
    wait_for(lambda: not made._running)


def for_ever():
    while True:
        pass


def stubborn():
    """Loses the first interruption, as one is lost that comes while a generator is closed."""
    try:
        for_ever()
    except BaseException:
        for_ever()


@pytest.mark.parametrize("reading", [for_ever, stubborn])
def test_what_takes_too_long_is_told_and_ended(readers, reading):
    async def ask():
        with pytest.raises(TimeoutError):
            await readers.run(0.2, reading)
        while readers._running:
            await asyncio.sleep(0.01)
        return await readers.run(PATIENCE_S, lambda: "next")

    assert asyncio.run(ask()) == "next"


def test_a_quick_reading_that_was_left_is_done(readers, monkeypatch):
    monkeypatch.setattr(room, "SLOW_S", PATIENCE_S)
    begun, go, done = threading.Event(), threading.Event(), []

    def quick():
        begun.set()
        go.wait(PATIENCE_S)
        done.append(True)

    async def leave():
        asked = asyncio.ensure_future(readers.run(PATIENCE_S, quick))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(leave())
    go.set()
    wait_for(lambda: done and not readers._running)


@pytest.mark.parametrize("reading", [for_ever, stubborn])
def test_the_end_does_not_wait_for_what_loops(readers, reading):
    async def leave():
        asked = asyncio.ensure_future(readers.run(PATIENCE_S, reading))
        while not readers._running:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(leave())  # with which the event loop ends
    readers.close()
    wait_for(lambda: not readers._running)
