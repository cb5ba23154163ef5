"""transformers' `_sample` for codebook models, with every row read under all branches in one forward."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.utils import ModelOutput

from counterpoint.errors import UnsupportedError
from counterpoint.formulas import log_probs
from counterpoint.guide import Guide
from counterpoint.guiding import combined


class GuidedBranches(StoppingCriteria):
    """The branches and guides of one call. `model.generate` hands its stopping criteria on, so it carries them to the
    loop; it never stops anything.

    Args:
        contexts: arguments of the model's forward that say what the branches read, (1 + K) * B rows each, the prompts
            first.
        weights: of each of the B prompts, one for each of the K further branches.
        guides: one for each prompt.
        num_codebooks: rows that the loop has for each prompt.
    """

    def __init__(
        self,
        contexts: Mapping[str, Any],
        *,
        weights: Sequence[Sequence[float]],
        guides: Sequence[Guide],
        num_codebooks: int,
    ) -> None:
        self.contexts, self.weights, self.guides = dict(contexts), list(weights), list(guides)
        self.num_codebooks = num_codebooks

    def __call__(self, input_ids: Tensor, scores: object, **_: Any) -> Tensor:
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def guide_samples(model: PreTrainedModel) -> None:
    """From now on, calls of `model.generate` that carry `GuidedBranches` are guided. All others stay as they were."""
    if "_sample" not in vars(model):
        model._sample = types.MethodType(_sample, model)


def _sample(
    self: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    **arguments: Any,
) -> ModelOutput | Tensor:
    """The model's own `_sample`, on a `BranchedModel` where the stopping criteria ask for one."""
    asked = next((one for one in stopping_criteria if isinstance(one, GuidedBranches)), None)
    model: Any = self
    if asked is not None:
        model = BranchedModel(self, asked, input_ids)
        logits_processor = LogitsProcessorList([_Guidance(model), *logits_processor])
    return type(self)._sample(
        model, input_ids, logits_processor=logits_processor, stopping_criteria=stopping_criteria, **arguments
    )


class BranchedModel:
    """Stands for the model in the loop: one forward reads the decoder's rows once for each branch.

    Its logits are those of the prompts; `guided` combines them with the others. All else is the model's own.

    Args:
        input_ids: (R, L), what the loop begins with.

    Raises:
        UnsupportedError: the loop has several samples of a prompt.
    """

    def __init__(self, model: PreTrainedModel, asked: GuidedBranches, input_ids: Tensor) -> None:
        num_rows, num_prompts = len(input_ids), len(asked.guides)
        if num_rows != num_prompts * asked.num_codebooks:
            raise UnsupportedError(
                f"num_return_sequences is {num_rows // (num_prompts * asked.num_codebooks)}, and {type(model).__name__} "
                "would join the samples of a prompt into one; repeat the prompts in the inputs instead"
            )
        self._model, self._contexts, self._start = model, asked.contexts, input_ids.shape[1]
        self._num_branches = 1 + len(asked.weights[0])
        self._guides = [guide for guide in asked.guides for _ in range(asked.num_codebooks)]
        self._weights = [row for row in asked.weights for _ in range(asked.num_codebooks)]
        self._others: Tensor | None = None  # (R, K, V)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def _prefill(self, *args: Any, **kwargs: Any) -> ModelOutput:
        return type(self._model)._prefill(self, *args, **kwargs)  # so that it calls this model and not the one inside

    def _valid_auto_compile_criteria(self, *_: Any) -> bool:
        return False

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The model's own inputs, with the decoder's rows once for each branch and what that branch reads."""
        inputs = self._model.prepare_inputs_for_generation(*args, **kwargs)
        for name, value in inputs.items():
            if name in self._contexts:
                inputs[name] = None if value is None else self._contexts[name]
            elif name.startswith("decoder_") and isinstance(value, Tensor):
                inputs[name] = value.repeat(self._num_branches, *[1] * (value.dim() - 1))
        return inputs

    def __call__(self, **inputs: Any) -> ModelOutput:
        out = self._model(**inputs)
        cond, *others = out.logits[:, -1:].chunk(self._num_branches)
        out.logits, self._others = cond, torch.cat(others, dim=1)
        return out

    def guided(self, input_ids: Tensor, cond_logits: Tensor) -> Tensor:
        """(R, L), (R, V) -> (R, V) guided log-probabilities in float32."""
        steps = [input_ids.shape[1] - self._start] * len(input_ids)
        others = log_probs(self._others).to(input_ids.device)
        return combined(log_probs(cond_logits), others, self._weights, self._guides, steps)


class _Guidance(LogitsProcessor):
    """The first processor of the loop of a `BranchedModel`."""

    def __init__(self, model: BranchedModel) -> None:
        self._model = model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self._model.guided(input_ids, scores)
