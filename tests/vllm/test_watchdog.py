from dataclasses import dataclass

from counterpoint.vllm.watchdog import Watchdog


@dataclass
class Request:
    request_id: str
    num_computed_tokens: int


def watched(positions):
    """How many steps until the stall; each position is one request's computed tokens after a step."""
    watchdog = Watchdog(steps=5, seconds=0.0)
    for step, position in enumerate(positions):
        if watchdog.stalled([Request("a", position)]):
            return step
    return None


def test_progress_is_no_stall():
    assert watched(range(100)) is None


def test_standing_still_is():
    assert watched([7] * 20) == 4


def test_going_in_circles_is():
    assert watched([8, 4, 8, 0, 4, 8, 0, 4, 8] * 5) is not None


def test_a_new_request_is_progress():
    watchdog = Watchdog(steps=5, seconds=0.0)
    assert not any(watchdog.stalled([Request(str(i), 1) for i in range(n)]) for n in range(20))


def test_steps_alone_are_not_enough():
    now = iter(range(1000))
    watchdog = Watchdog(steps=5, seconds=90.0, clock=lambda: next(now))
    stalls = [watchdog.stalled([Request("a", 7)]) for _ in range(200)]
    assert 90 < stalls.index(True) < 100
