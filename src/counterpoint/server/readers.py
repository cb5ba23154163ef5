"""Threads in which requests are read: texts to token ids, templates, checks. No request holds up the others there."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")

MOST_THREADS = 16
SLOW_S = 0.25  # a reading that takes longer lets the next begin beside it
MOST_INTERRUPTS = 8  # at the end of a server
SHORT_TURN_S = 0.0005  # how long a slow reading keeps the interpreter when another thread wants it; Python says 0.005


class _Interrupted(BaseException):
    """Raised in a thread whose reading takes too long; no handler of exceptions is meant to catch it."""


class Readers:
    """Reads requests one after the other, so that the engine's thread has one rival at most for the interpreter; beside
    one that is slow, the next begins. One that has taken its time is interrupted."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="reading")
        self._turn = asyncio.Semaphore(1)
        self._running: dict[Future[Any], _Task] = {}

    async def run(self, seconds: float, function: Callable[..., T], *args: Any) -> T:
        """`function(*args)` in a thread.

        Raises:
            TimeoutError: it took more than `seconds`, the wait for its turn included.
        """
        task = _Task(function, args)
        async with asyncio.timeout(seconds):
            await self._turn.acquire()
            given_back = threading.Event()

            def give_back() -> None:
                if not given_back.is_set():
                    given_back.set()
                    self._turn.release()

            def begin_the_next() -> None:
                _SHORT_TURNS.start(task)
                give_back()

            loop = asyncio.get_running_loop()
            slow = loop.call_later(SLOW_S, begin_the_next)
            future = self._pool.submit(task)
            self._running[future] = task
            future.add_done_callback(lambda done: self._running.pop(done))
            try:
                return await asyncio.wrap_future(future)
            finally:
                is_slow = given_back.is_set()
                slow.cancel()
                _SHORT_TURNS.end(task)
                give_back()
                if not future.done():
                    loop.call_later(0 if is_slow else SLOW_S, self._interrupt, future, loop)

    def _interrupt(self, future: Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        """End a reading for which nobody waits. What is raised at the end of a generator is lost, so this goes on."""
        if task := self._running.get(future):
            task.interrupt()
            loop.call_later(SLOW_S, self._interrupt, future, loop)

    def close(self) -> None:
        """End, whatever is being read; what is quick is read to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for _ in range(MOST_INTERRUPTS):
            if not wait(list(self._running), timeout=SLOW_S).not_done:
                return
            for task in list(self._running.values()):
                task.interrupt()


class _ShortTurns:
    """While slow readings run, threads take turns at the interpreter more often. A step of the engine asks for it at every
    operation, so that with Python's interval each reading that loops would cost each operation 5 ms. The interval is the
    process's, and so is this."""

    def __init__(self) -> None:
        self._slow: set[_Task] = set()
        self._usual = 0.0
        self._lock = threading.Lock()

    def start(self, task: _Task) -> None:
        with self._lock:
            if not self._slow:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(SHORT_TURN_S, self._usual))
            self._slow.add(task)

    def end(self, task: _Task) -> None:
        with self._lock:
            if task in self._slow:
                self._slow.remove(task)
                if not self._slow:
                    sys.setswitchinterval(self._usual)


_SHORT_TURNS = _ShortTurns()


class _Task:
    """One reading, which can be interrupted while it runs."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._is_over = False

    def __call__(self) -> Any:
        try:
            with self._lock:
                if self._is_over:
                    return None
                self._thread = threading.get_ident()
            try:
                return self._function(*self._args)
            finally:
                with self._lock:
                    self._thread, self._is_over = None, True
        except _Interrupted:  # nobody waits for the result any more
            return None

    def interrupt(self) -> None:
        """End it at its next step of Python; nothing where it is over. A template that loops is all such steps."""
        with self._lock:
            self._is_over = True
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupted))
