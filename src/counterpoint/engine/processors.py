"""The user's processors as one sample has them: what they remember is of that sample alone, and a guess can fork it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.nn import Module

from counterpoint.errors import SamplingError
from counterpoint.sampling import NEG_INF, Processor


class Processors:
    """Copies of processors, for one sample.

    A processor that has a method `fork()` is asked for its copy; another object is copied deeply, but for modules among
    its attributes, which stay shared. A function is shared: what it must remember belongs into an object.

    Args:
        given: the request's processors, or those of the sample to fork. They are not called and not changed.

    Raises:
        SamplingError: one can't be copied.
    """

    def __init__(self, given: Sequence[Processor]) -> None:
        self._own = [_own_copy(processor) for processor in given]

    def fork(self) -> Processors:
        """The same state once more, to go on in another way."""
        return Processors(self._own)

    def __iter__(self) -> Iterator[Processor]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def _own_copy(processor: Processor) -> Processor:
    if hasattr(processor, "fork"):
        return processor.fork()
    try:
        return copy.deepcopy(processor, _shared(processor))
    except Exception as error:
        raise SamplingError(
            f"the processor {processor!r:.60} can't be copied for each sample ({error}); give it a method fork()"
        ) from error


def _shared(processor: Processor) -> dict[int, object]:
    """The memo of `copy.deepcopy` that has its modules stay what they are."""
    owner = getattr(processor, "__self__", processor)  # of a bound method
    return {id(value): value for value in getattr(owner, "__dict__", {}).values() if isinstance(value, Module)}


class NoEarlyEnd:
    """The processor that rules out tokens which would end an output before it has so many.

    Args:
        ids: the tokens that end an output.
        min_tokens: how many come first.
    """

    def __init__(self, ids: Sequence[int], min_tokens: int) -> None:
        self._ids, self._min_tokens = sorted(ids), min_tokens

    def fork(self) -> NoEarlyEnd:
        """The same: it remembers nothing."""
        return self

    def __call__(self, prompt_ids: Sequence[int], output_ids: Sequence[int], scores: Tensor) -> Tensor:
        if len(output_ids) >= self._min_tokens:
            return scores
        scores = scores.clone()
        scores[self._ids] = NEG_INF
        return scores
