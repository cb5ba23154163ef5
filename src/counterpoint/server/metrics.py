"""What is counted, for Prometheus. A registry for each server, so that several can live in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The server's own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        one: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("counterpoint_requests", "Requests answered", ["route", "status"], **one)
        self.gone = Counter("counterpoint_disconnects", "Requests whose client went away", **one)
        self.prompt_tokens = Counter("counterpoint_prompt_tokens", "Tokens of prompts", **one)
        self.branch_tokens = Counter("counterpoint_branch_tokens", "Tokens that further branches read", **one)
        self.completion_tokens = Counter("counterpoint_completion_tokens", "Tokens generated", **one)
        self.guided = Counter("counterpoint_guided_samples", "Samples with at least one further branch", **one)
        self.failures = Counter("counterpoint_failures", "Samples that ended by a failure of the server", **one)
        self.alarms = Counter("counterpoint_alarms", "Alarms of watches", ["watch"], **one)
        self.discarded_tokens = Counter("counterpoint_discarded_tokens", "Tokens given up after an alarm", **one)
        self.first_token_s = Histogram(
            "counterpoint_first_token_seconds", "From a request's arrival to its first token", buckets=SECONDS, **one
        )
        self.request_s = Histogram("counterpoint_request_seconds", "From arrival to end", buckets=SECONDS, **one)
        self.step_s = Histogram("counterpoint_step_seconds", "One step of the engine", buckets=SECONDS, **one)

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"counterpoint_{name}", what, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
