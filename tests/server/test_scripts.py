"""The long runs, short."""

import asyncio
import sys
from pathlib import Path

import pytest
from server.conftest import make_model, serving

from counterpoint.server.limits import Limits

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import fuzz_server
    import soak_server

    yield soak_server, fuzz_server
    for name in ("soak_server", "fuzz_server"):
        del sys.modules[name]


def test_soak(scripts, model):
    soak_server, _ = scripts
    with serving(model, limits=Limits(max_rows=12, prefill_tokens=32, idle_prefill_tokens=64)) as running:
        options = {"clients": 12, "seconds": 4, "seed": 1, "pool_size": 16, "longest": 60, "pid": None}
        report = asyncio.run(soak_server.soak(running.base, **options))
        running.wait_idle()
    assert soak_server.verdict(report) == []
    assert report["statuses"][200] > 5 and report["outcomes"]["greedy, equal"] > 0


def test_soak_notices_a_wrong_answer(scripts, model):
    soak_server, _ = scripts
    report = {"statuses": {200: 5, 500: 1}, "num_different_greedy": 2, "left_in_engine": {"rows": 1}, "rss_mib": {}}
    assert len(soak_server.verdict(report)) == 3


@pytest.fixture(scope="module")
def small_limits():
    with serving(make_model(), limits=Limits(max_tokens=32, max_samples=4)) as running:
        yield running


def test_bodies_made_by_hand(scripts, small_limits):
    _, fuzz_server = scripts
    assert fuzz_server.throw_by_hand(small_limits.base) == []


def test_schema_fuzzer(scripts, small_limits):
    _, fuzz_server = scripts
    assert fuzz_server.run_schemathesis(small_limits.base, 6, 0) == []
