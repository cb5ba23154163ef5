"""A small model of the same class and kind. On it, effects that need thousands of tokens show within milliseconds."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from counterpoint.models.traces import Slots, slots_of
from counterpoint.models.trials.shrink import Path, Shrunk, divisors, get, length_fields, narrowed, with_lengths

MOST_NUMBERS = 60_000_000  # parameters, more than which is no small model
GAIN = 1.4  # spread of what a layer gives over that of what it is given: texts differ, and nothing saturates


@dataclass(frozen=True, slots=True)
class Twin:
    """A small model with random weights.

    Args:
        model: of the class and, apart from sizes, of the config of the model that it stands for.
        lengths: for each length of its config, that of the model itself: where something may begin to act.
        tables: likewise for each number of positions that there is a table of.
        slots: of the model before it had read anything.
    """

    model: PreTrainedModel
    lengths: dict[int, int]
    tables: dict[int, int]
    slots: Slots


@torch.no_grad()
def twin_of(model: PreTrainedModel) -> Twin | None:
    """The twin of a model; None where none can be built that runs."""
    depth = _least_depth(model)
    for divisor in divisors(model.config):
        for num_layers in dict.fromkeys((depth, None)):
            twin = _try(model, divisor, num_layers)
            if twin is not None:
                return twin
    return None


def _try(model: PreTrainedModel, divisor: int, num_layers: int | None) -> Twin | None:
    try:
        small = narrowed(model.config, divisor=divisor, num_layers=num_layers)
        shrunk = _shrunk_lengths(type(model), small)
        if shrunk is None:
            return None
        twin = _built(type(model), shrunk.config)
        slots = slots_of(twin)
        ids = torch.tensor([[1, 3, 2]])
        decoded = {"decoder_input_ids": ids} if small.is_encoder_decoder else {}
        twin(input_ids=ids, use_cache=False, **decoded)
    except Exception:  # any exception: these sizes don't fit together
        return None
    return Twin(twin, shrunk.lengths, shrunk.tables, slots)


def _shrunk_lengths(kind: type[PreTrainedModel], config: PreTrainedConfig) -> Shrunk | None:
    """The config with those numbers small that change no weight's shape, and so may be lengths."""
    shapes = _shapes(kind, config)
    if sum(math.prod(shape) for _, shape in shapes) > MOST_NUMBERS:
        return None
    fields = length_fields(config)
    shrunk = with_lengths(config, fields)
    if not _same(kind, shrunk.config, shapes):
        neutral = {p: v for p, v in fields.items() if _same(kind, with_lengths(config, {p: v}).config, shapes)}
        shrunk = with_lengths(config, neutral)
        if config.is_encoder_decoder:  # its tables stay as long as its encoder's texts may have to be
            return shrunk
        for path in fields.keys() - neutral.keys():
            shrunk = _with_table(kind, shrunk, path, fields[path])
    return shrunk


def _with_table(kind: type[PreTrainedModel], shrunk: Shrunk, path: Path, value: int) -> Shrunk:
    """With a small table of positions, if that is what the field gives the size of, and if the model can be built so."""
    table = with_lengths(shrunk.config, {path: value}, tables=True)
    try:
        _shapes(kind, table.config)
    except Exception:  # it is the size of something else
        return shrunk
    return Shrunk(table.config, shrunk.lengths, {**table.lengths, **shrunk.tables})


def _same(kind: type[PreTrainedModel], config: PreTrainedConfig, shapes: list[tuple[str, tuple[int, ...]]]) -> bool:
    try:
        return _shapes(kind, config) == shapes
    except Exception:  # a config that can't be built is not the same
        return False


def _shapes(kind: type[PreTrainedModel], config: PreTrainedConfig) -> list[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"), _quiet():
        model = kind._from_config(config)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, tuple(tensor.shape)) for name, tensor in tensors]


def _built(kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        model = kind._from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, GAIN / math.sqrt(parameter.shape[-1]))
    model.generation_config.eos_token_id = None  # its texts go on as far as a trial needs
    return model


def _least_depth(model: PreTrainedModel) -> int | None:
    """The least number of first layers among which every kind of layer is; None for all."""
    depth = get(model.config.get_text_config(), "num_hidden_layers")
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    least = 2
    for stack in stacks:
        kinds = _kinds(stack)
        seen = set()
        for at, kind in enumerate(kinds):
            if kind not in seen:
                seen.add(kind)
                least = max(least, at + 1)
    return least if depth is not None and least < depth else None


def _kinds(stack: nn.ModuleList) -> list[frozenset]:
    """The kind of each layer: its modules' classes and their plain settings, apart from those that number the layers."""
    settings = [
        {
            (name, key): value
            for name, module in layer.named_modules()
            for key, value in [("", type(module)), *vars(module).items()]
            if isinstance(value, (bool, int, str, type)) and not key.startswith("_")
        }
        for layer in stack
    ]
    every = {key for one in settings for key in one}
    values = {key: [(at, one[key]) for at, one in enumerate(settings) if key in one] for key in every}
    numbering = {
        key
        for key, found in values.items()
        if type(found[0][1]) is int
        and (all(value == at for at, value in found) or len({value for _, value in found}) == len(found) > 2)
    }
    return [frozenset((k, v) for k, v in one.items() if k not in numbering) for one in settings]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' messages about the small config, which the caller never wrote."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
