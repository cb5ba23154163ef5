"""The form that the rows of a batch keep, told from their ids alone: beams may be reordered and drafts rolled back."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from counterpoint.constraints import Constraint
from counterpoint.constraints.compiled import Compiled
from counterpoint.constraints.masks import unpacked
from counterpoint.constraints.state import State
from counterpoint.errors import ConstraintError

MOST_KEPT = 4096  # states; older ones are made again where they are needed


class RowForms:
    """The states of one constraint, by what has been generated.

    Args:
        compiled: the constraint.
    """

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled
        self._states: dict[tuple[int, ...], State | None] = {(): compiled.start()}

    def allowed(self, generated: Tensor, like: Tensor) -> Tensor:
        """The tokens that may follow each row. (R, L) of ids, (R, V) predictions -> (R, V) of bool; all of them after a
        row that has ended, or that does not keep the form: of a draft, such a row is dropped."""
        states = [self._state(tuple(row)) for row in generated.tolist()]
        result = torch.ones_like(like, dtype=torch.bool)
        at = [row for row, state in enumerate(states) if state is not None and not state.is_over]
        if at:
            result[at] = unpacked([states[row] for row in at], like.shape[-1], like)
        return result

    def _state(self, ids: tuple[int, ...]) -> State | None:
        known = len(ids)
        while known and ids[:known] not in self._states:
            known -= 1
        for end in range(known + 1, len(ids) + 1):
            if len(self._states) > MOST_KEPT:
                self._states = {(): self._compiled.start(), ids[: end - 1]: self._states[ids[: end - 1]]}
            self._states[ids[:end]] = _after(self._states[ids[: end - 1]], ids[end - 1])
        return self._states[ids]


def _after(state: State | None, token_id: int) -> State | None:
    """The state after one more token; None where the form does not go on so."""
    if state is None or state.is_over:
        return state
    other = state.fork()
    try:
        other.accept(token_id)
    except ConstraintError:
        return None
    return other


def form_of(constraint: Compiled, model: PreTrainedModel, config: GenerationConfig) -> RowForms:
    """The form of one call of `generate`.

    Raises:
        ConstraintError: it is no constraint, not compiled, or for other tokens.
    """
    if isinstance(constraint, Constraint):
        # transformers hands a tokenizer to no callable for custom_generate.
        raise ConstraintError(
            "constraint is not compiled; pass constraint.compile(model, tokenizer)", param="constraint"
        )
    if not isinstance(constraint, Compiled):
        raise ConstraintError(
            f"constraint is {constraint!r:.60}; use one of counterpoint.constraints, compiled", param="constraint"
        )
    vocab_size = model.config.get_text_config().vocab_size
    if constraint.vocab_size != vocab_size:
        raise ConstraintError(
            f"the constraint was compiled for {constraint.vocab_size} token ids and {type(model).__name__} has "
            f"{vocab_size}; compile it for this model",
            param="constraint",
        )
    eos_ids = [] if config._eos_token_tensor is None else sorted(config._eos_token_tensor.reshape(-1).tolist())
    if sorted(constraint.vocabulary.eos_ids) != eos_ids:
        raise ConstraintError(
            f"the constraint ends texts by the tokens {sorted(constraint.vocabulary.eos_ids)} and generate by {eos_ids}; "
            "leave eos_token_id as the model has it",
            param="constraint",
        )
    return RowForms(constraint)
