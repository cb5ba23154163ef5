"""Many requests through one engine: a window of them at a time, each answer as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from counterpoint.engine import Completion, Engine, Progress, Request
from counterpoint.errors import UsageError

K = TypeVar("K", bound=Hashable)
WINDOW = 512  # requests that the engine knows of at once, so that a million take no more memory than a thousand


@dataclass(frozen=True, slots=True)
class Answer(Generic[K]):
    """What became of one request.

    Args:
        key: the caller's.
        completions: its samples in their order; none where it failed.
        error: what failed.
    """

    key: K
    completions: tuple[Completion, ...] = ()
    error: Exception | None = None


def run_all(
    engine: Engine,
    requests: Iterable[tuple[K, Request | Exception]],
    *,
    in_order: bool = True,
    window: int = WINDOW,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[Answer[K]]:
    """Run requests, and yield an answer for each; what fails is the answer of its own request alone.

    Args:
        requests: taken as there is room for them; an exception in a request's place becomes its answer.
        in_order: in the order of the requests; otherwise as they end.
        window: most requests that are begun and not yielded.
        on_progress: called at each token.
    """
    source = iter(requests)
    open_: dict[int, tuple[K, list[Completion]]] = {}
    sizes: dict[int, int] = {}
    order: list[K] = []
    ready: dict[K, Answer[K]] = {}
    is_dry = False
    while True:
        while not is_dry and len(open_) + len(ready) < window:
            following = next(source, None)
            if following is None:
                is_dry = True
                break
            key, request = following
            order.append(key)
            if isinstance(request, Exception):
                ready[key] = Answer(key, error=request)
                continue
            try:
                request_id = engine.add(request)
            except UsageError as error:
                ready[key] = Answer(key, error=error)
                continue
            open_[request_id], sizes[request_id] = (key, []), request.num_samples
        if in_order:
            while order and order[0] in ready:
                yield ready.pop(order.pop(0))
        else:
            for key in list(ready):
                order.remove(key)
                yield ready.pop(key)
        if not open_ and not ready and is_dry:
            return
        for progress in engine.step() if open_ else ():
            if progress.request_id not in open_:
                continue
            key, done = open_[progress.request_id]
            if progress.error is not None:
                engine.cancel(progress.request_id)
                del open_[progress.request_id]
                ready[key] = Answer(key, error=progress.error)
                continue
            if on_progress is not None:
                on_progress(progress)
            if progress.completion is not None:
                done.append(progress.completion)
                if len(done) == sizes[progress.request_id]:
                    del open_[progress.request_id]
                    ready[key] = Answer(key, tuple(sorted(done, key=lambda completion: completion.index)))
