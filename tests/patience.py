"""How tests wait: for an event, as long as it takes. No test measures time; `test_patience.py` holds that.

What has to come is waited for so long that only a hang takes longer: a machine may be slow, and may stop for seconds. What
must not be over before something else happens is held until then (`Gate`, `server/held.py`, `slowly.py`).
"""

import threading
import time

import httpx

PATIENCE_S = 300  # for what a quiet machine does in a second

#: asks like the module httpx, and waits; each request has a connection of its own, which no server has closed meanwhile
http = httpx.Client(timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0))


def wait_for(condition, told=lambda: ""):
    """Until `condition()` is true. What `told()` says is shown where it never is."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"it did not come about: {told()}"
        time.sleep(0.005)


class Gate:
    """Lets through as many as were allowed; others wait."""

    def __init__(self):
        self._allowed, self._changed = 0, threading.Condition()
        self.num_passed = 0

    def allow(self, count):
        with self._changed:
            self._allowed += count
            self._changed.notify_all()

    def open(self):
        """Let everything through from now on."""
        self.allow(float("inf"))

    def pass_through(self):
        with self._changed:
            assert self._changed.wait_for(lambda: self.num_passed < self._allowed, PATIENCE_S), "nobody opens the gate"
            self.num_passed += 1
