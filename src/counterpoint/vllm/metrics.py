"""What the scheduler counts, for Prometheus.

vLLM's `/metrics` shows them where `PROMETHEUS_MULTIPROC_DIR` names an empty folder when the server starts (the launcher
sees to that), since the scheduler runs in another process than the endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter


@dataclass(slots=True)
class Counts:
    """The same numbers as plain integers."""

    guided_requests: int = 0
    branches: int = 0
    branch_tokens: int = 0
    held_steps: int = 0
    preempted_groups: int = 0
    refused_requests: int = 0
    stalls: int = 0
    guided_tokens: int = 0


HELP = {
    "guided_requests": "Requests that were guided.",
    "branches": "Further branches of guided requests, each a hidden sequence.",
    "branch_tokens": "Prompt and generated tokens of further branches.",
    "held_steps": "Steps in which a guided request waited since not all of its branches were there.",
    "preempted_groups": "Guided requests that gave their memory back since one of their branches had to.",
    "refused_requests": "Guided requests that were refused by the scheduler.",
    "stalls": "Guided requests that were failed since they did not move.",
    "guided_tokens": "Tokens generated under guidance.",
}


class Metrics:
    """Counters of one scheduler. `counts` is what they say, for this process alone."""

    def __init__(self) -> None:
        self.counts = Counts()
        registry = CollectorRegistry()
        self._counters = {name: Counter(f"counterpoint:{name}", text, registry=registry) for name, text in HELP.items()}

    def add(self, name: str, amount: int = 1) -> None:
        """Count `amount` more of one of the names of `Counts`."""
        setattr(self.counts, name, getattr(self.counts, name) + amount)
        self._counters[name].inc(amount)
