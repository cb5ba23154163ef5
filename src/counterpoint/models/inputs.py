"""Logits after histories that begin with whatever a processor makes: pictures, sounds, and the text around them."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from counterpoint.errors import PromptError, UnsupportedError, UsageError
from counterpoint.models.caches import cache_argument, cache_of
from counterpoint.models.devices import input_device
from counterpoint.models.rows import Snapshot
from counterpoint.models.traces import OwnState

#: a prompt by its number, and the tokens generated after it
History = tuple[int, tuple[int, ...]]


class InputHistories:
    """Continues prompts of any kind, each with a cache and positions of its own, as the model's own `generate` does.

    A call whose histories are those of the last one with a token each, in the same order, costs one token a row. Another
    order reorders the cache; anything else reads the prompts anew.

    Args:
        model: a model of transformers.
        inputs: of N prompts, as the model's processor makes them; padded on the left.
        state: what its texts leave on the modules, see `Abilities.own_state`.

    Raises:
        PromptError: no `input_ids` of shape (N, L), or padding on the right.
    """

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, Any], state: OwnState) -> None:
        self._model, self._inputs = model, dict(inputs)
        self.num_prompts = check_inputs(inputs)
        self._held: list[History] = []
        self._ids = torch.zeros((0, 0), dtype=torch.long)  # (R, L) prompts and what came after them
        self._kwargs: dict[str, Any] = {}
        self._state = state

    def logits(self, histories: Sequence[History]) -> Tensor:
        """Logits of the token after each history. Histories of one prompt stand side by side. -> (R, V)."""
        with self._state.alone(), torch.no_grad():
            return self._logits(list(histories))

    def fork(self) -> InputHistories:
        """Another that goes on from here by itself."""
        new, cache = copy.copy(self), cache_of(self._kwargs)
        new._state, new._held = self._state.fork(), list(self._held)
        new._kwargs = {name: copy.deepcopy(value) if value is cache else value for name, value in self._kwargs.items()}
        return new

    def _logits(self, histories: list[History]) -> Tensor:
        places = {history: place for place, history in enumerate(self._held)}
        sources = [places.get((prompt, ids[:-1])) if ids else None for prompt, ids in histories]
        known = [source for source in sources if source is not None]
        if len(known) < len(sources) or not self._reorder(known):
            out = self._begin(histories)
        else:
            out = self._read([ids[-1:] for _, ids in histories])
        self._held = histories
        return out

    def _begin(self, histories: list[History]) -> Tensor:
        """Read the prompts, and what was generated after them."""
        self._state.forget()
        generated = [ids for _, ids in histories]
        num_generated = len(generated[0])
        with _told(self._model):
            self._ids, self._kwargs = _prepared(self._model, self._inputs, len(histories) // self.num_prompts)
            out = self._forward(self._ids.shape[1], num_next=num_generated or 1, first=True)
        return self._read(generated) if num_generated else out

    def _read(self, new: Sequence[tuple[int, ...]]) -> Tensor:
        self._ids = torch.cat([self._ids, torch.tensor(new, device=self._ids.device)], dim=1)
        return self._forward(len(new[0]), num_next=1)

    def _forward(self, num_new: int, *, num_next: int, first: bool = False) -> Tensor:
        """Read the last `num_new` ids of each row, and make room for the `num_next` after them."""
        inputs = self._model.prepare_inputs_for_generation(
            self._ids, next_sequence_length=None if first else num_new, is_first_iteration=first, **self._kwargs
        )
        out = self._model(**inputs, return_dict=True)
        self._kwargs = _updated(self._model, out, self._kwargs, num_next)
        return out.logits[:, -1]

    def _reorder(self, sources: list[int]) -> bool:
        """Whether the rows could be put into this order; those of one prompt have their masks and positions in common."""
        rows = list(range(len(self._held)))
        if sources == rows:
            return True
        cache = cache_of(self._kwargs)
        of_prompt = [prompt for prompt, _ in self._held]
        if len(sources) != len(rows) or cache is None or [of_prompt[source] for source in sources] != of_prompt:
            return False
        at = torch.tensor(sources, device=self._ids.device)
        cache.reorder_cache(at)
        self._ids = self._ids[at]
        return True


@dataclass(frozen=True, slots=True)
class Opening:
    """What the model's own forward makes of one prompt.

    Args:
        logits: (V,) of the token that follows.
        states: of each layer the keys and values.
        offset: the position of the tokens that follow is their place in the row plus this: a picture may take more places
            than positions.
    """

    logits: Tensor
    states: Snapshot
    offset: int


@torch.no_grad()
def opening(model: PreTrainedModel, inputs: Mapping[str, Any], state: OwnState) -> Opening:
    """Read one prompt for rows of ours to go on from.

    Args:
        inputs: of one prompt, as the model's processor makes them.

    Raises:
        PromptError: the model can't read them.
        UnsupportedError: what its layers keep of them is not one key and value for each token.
    """
    with state.alone(), _told(model):
        state.forget()
        ids, kwargs = _prepared(model, inputs, 1)
        # Without the config no layer of the cache forgets what its window has passed.
        name = cache_argument(model.forward)
        if name is None:
            raise UnsupportedError(f"the forward of {type(model).__name__} takes no cache")
        kwargs[name] = DynamicCache()
        out = _first_forward(model, ids, kwargs)
        kwargs = _updated(model, out, kwargs, 1)
        longer = torch.cat([ids, ids[:, -1:]], dim=1)
        following = model.prepare_inputs_for_generation(
            longer, next_sequence_length=1, is_first_iteration=False, **kwargs
        )
    length = ids.shape[1]
    states: Snapshot = []
    for layer in cache_of(out).layers:
        if not layer.is_initialized:
            states.append(None)
            continue
        if layer.keys.dim() != 4 or layer.keys.shape[:3:2] != (1, length):
            raise UnsupportedError(f"a layer keeps keys of shape {tuple(layer.keys.shape)} of {length} tokens")
        states.append((layer.keys[0], layer.values[0]))
    positions = following.get("position_ids")
    # Where several are told, the last ones are those that turn; the first may count tokens.
    offset = 0 if positions is None else int(positions.reshape(-1)[-1]) - length
    return Opening(out.logits[0, -1], states, offset)


@torch.no_grad()
def uncached(model: PreTrainedModel, inputs: Mapping[str, Any], new: Sequence[int], state: OwnState) -> Tensor:
    """Logits after a prompt and after each of some tokens behind it, by one forward without a cache. -> (N + 1, V)."""
    with state.alone(), _told(model):
        state.forget()
        ids, kwargs = _prepared(model, _longer(inputs, new), 1)
        kwargs = {name: value for name, value in kwargs.items() if value is not cache_of(kwargs)}
        if "logits_to_keep" in kwargs:
            kwargs["logits_to_keep"] = len(new) + 1
        out = _first_forward(model, ids, kwargs | {"use_cache": False})
    return out.logits[0, -len(new) - 1 :]


@contextlib.contextmanager
def _told(model: PreTrainedModel) -> Iterator[None]:
    """What a model can't read is an error of one line: pictures that the text has no places for, and the like."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        if isinstance(error, (UsageError, torch.OutOfMemoryError)):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PromptError(f"{type(model).__name__} can't read what was made of the prompt: {reason:.200}") from error


def _first_forward(model: PreTrainedModel, ids: Tensor, kwargs: dict[str, Any]) -> Any:
    return model(**model.prepare_inputs_for_generation(ids, is_first_iteration=True, **kwargs), return_dict=True)


def _updated(model: PreTrainedModel, out: Any, kwargs: dict[str, Any], num_next: int) -> dict[str, Any]:
    """The arguments of the next forward, which reads so many tokens."""
    # Mllama has no default for the second.
    return model._update_model_kwargs_for_generation(out, kwargs, is_encoder_decoder=False, num_new_tokens=num_next)


def _longer(inputs: Mapping[str, Any], new: Sequence[int]) -> dict[str, Any]:
    """Inputs of one prompt with some tokens of text behind it."""
    ids = inputs["input_ids"]
    longer = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids.shape:
            fill = new if name == "input_ids" else [int(name == "attention_mask")] * len(new)
            value = torch.cat([value, torch.tensor([fill], dtype=value.dtype, device=value.device)], dim=1)
        elif isinstance(value, Tensor) and "mask" in name and value.shape[:2] == ids.shape:
            value = torch.cat([value, *[value[:, -1:]] * len(new)], dim=1)  # Mllama's, of what each token sees
        longer[name] = value
    return longer


def placed(model: PreTrainedModel, values: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs where the model takes them, numbers of pixels and sounds in its dtype."""
    device = input_device(model)

    def one(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(one, value))
        if not isinstance(value, Tensor):
            return value
        return value.to(device, model.dtype if value.is_floating_point() else None)

    return {name: one(value) for name, value in values.items()}


def check_names(model: PreTrainedModel, values: Mapping[str, Any]) -> None:
    """Raise `PromptError` where the model's forward takes no argument of one of these names."""
    takes = inspect.signature(model.forward).parameters
    unknown = [name for name in values if name not in takes]
    if unknown:
        raise PromptError(
            f"{type(model).__name__} takes no {', '.join(unknown)}; give what its own processor makes of a prompt"
        )


def check_inputs(inputs: object, name: str = "negative_inputs") -> int:
    """How many prompts there are in what a processor made.

    Raises:
        PromptError: it has no `input_ids` of shape (N, L), or pads them on the right.
    """
    given: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {}
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or 0 in ids.shape:
        raise PromptError(f"{name} has no input_ids of shape (prompts, length); pass what the processor makes")
    mask = given.get("attention_mask")
    if mask is not None and not bool((mask[:, -1] != 0).all()):
        raise PromptError(f"{name} are padded on the right, where nothing can be continued; pad them on the left")
    return len(ids)


def _prepared(model: PreTrainedModel, inputs: Mapping[str, Any], times: int) -> tuple[Tensor, dict[str, Any]]:
    """The ids and arguments that `generate` of the model begins its loop with, each prompt `times` times."""
    begun: dict[str, Any] = {}

    def keep(
        _model: object,
        input_ids: Tensor,
        logits_processor: object,
        stopping_criteria: object,
        generation_config: object,
        **kwargs: Any,
    ) -> Tensor:
        begun.update(ids=input_ids, kwargs=kwargs)
        return input_ids

    model.generate(
        **inputs,
        custom_generate=keep,
        do_sample=times > 1,
        num_return_sequences=times,
        num_beams=1,
        max_new_tokens=1,
        use_cache=True,
        cache_implementation="dynamic",
        guidance_scale=None,
    )
    return begun["ids"], begun["kwargs"]
