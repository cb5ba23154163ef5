"""Adapters of a model: loaded, taken out of peft's wrapper, and turned on or off around a forward (see `switched`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from counterpoint.errors import UnsupportedError, UsageError
from counterpoint.models.close import is_close
from counterpoint.models.devices import input_device


class AdapterSwitch:
    """Turns a model's adapters (peft's layers) to one state and back.

    Args:
        hf: a model with adapters.
        name: the adapter to have on; None for none.

    Raises:
        UsageError: the model has no adapter, or none of that name.
    """

    def __init__(self, hf: nn.Module, name: str | None) -> None:
        self._layers = adapter_layers(hf)
        if not self._layers:
            raise UsageError(
                f"{type(hf).__name__} has no adapter to turn on or off; load one with "
                "counterpoint.models.adapters.load_adapter(model.hf, FOLDER), which needs pip install '.[adapters]'"
            )
        names = sorted(getattr(hf, "peft_config", {}))
        if name is not None and name not in names:
            raise UsageError(f"there is no adapter {name!r}; the model has {', '.join(names)}")
        self._name = name

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before = [(layer.disable_adapters, list(layer.active_adapters)) for layer in self._layers]
        # Switching marks weights as trainable, which is the caller's to decide.
        trainable = [(p, p.requires_grad) for layer in self._layers for p in layer.parameters()]
        try:
            for layer in self._layers:
                _switch(layer, self._name is None, [self._name] if self._name is not None else None)
            yield
        finally:
            for layer, (is_off, names) in zip(self._layers, before):
                _switch(layer, is_off, names)
            for parameter, flag in trainable:
                parameter.requires_grad_(flag)


@torch.no_grad()
def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The model of transformers in a wrapper such as peft's, with its adapters; itself where nothing is around it.

    Raises:
        UsageError: there is no model of transformers in it.
        UnsupportedError: the wrapper predicts something else than the model in it, by a trial, as with prompts and prefixes
            that peft has learned.
    """
    if isinstance(model, PreTrainedModel):
        return model
    kind = type(model).__name__
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if inner is None:
        raise UsageError(f"{kind} is no model of transformers; give one, or a name to counterpoint.load", param="model")
    was_training = model.training
    model.eval()  # dropout would make two forwards differ
    ids = torch.tensor([[1, 2, 3]], device=input_device(inner))
    try:
        own, whole = inner(input_ids=ids).logits, model(input_ids=ids).logits
        is_plain = own.shape == whole.shape and is_close(whole[0, -1], own[0, -1])
    except Exception:  # whatever the wrapper asks for besides token ids
        is_plain = False
    model.train(was_training)
    if not is_plain:
        raise UnsupportedError(
            f"{kind} predicts something else than the {type(inner).__name__} in it, as with prompts and prefixes that peft "
            "has learned, which no branch could read; use an adapter that changes weights, such as LoRA"
        )
    return inner


def load_adapter(hf: PreTrainedModel, folder: str, *, name: str = "adapter") -> None:
    """Add a peft adapter to a model and turn it on.

    Through peft itself: what transformers has for it asks for versions of peft newer than the ones it works with.

    Raises:
        UsageError: peft is not installed, or the folder holds no adapter of this model.
    """
    if importlib.util.find_spec("peft") is None:
        raise UsageError("adapters need peft; pip install '.[adapters]'")
    if not (Path(folder) / "adapter_config.json").is_file():
        raise UsageError(f"the folder {folder!r} has no adapter_config.json, so it is no adapter of peft")
    known = set(getattr(hf, "peft_config", {}))
    trainable = {parameter: parameter.requires_grad for parameter in hf.parameters()}
    try:
        _inject(hf, folder, name)
    except Exception as error:  # peft and safetensors raise many kinds for an adapter that does not fit
        if name not in known:
            _take_off(hf, name)
            for parameter, flag in trainable.items():
                parameter.requires_grad_(flag)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"the adapter {folder!r} can't be loaded: {reason}") from error


def _take_off(hf: PreTrainedModel, name: str) -> None:
    """The model without an adapter that was put on in part; without any left, without peft's layers."""
    layers = {where: layer for where, layer in hf.named_modules() if layer in set(adapter_layers(hf))}
    for layer in layers.values():
        layer.delete_adapter(name)
    if hasattr(hf, "peft_config"):
        hf.peft_config.pop(name, None)
        if not hf.peft_config:
            del hf.peft_config
            for where, layer in layers.items():
                hf.set_submodule(where, layer.get_base_layer())


def _inject(hf: PreTrainedModel, folder: str, name: str) -> None:
    from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    weights = load_peft_weights(folder, device="cpu")
    # Saved from a model that peft had wrapped.
    weights = {key.removeprefix("base_model.model."): weight for key, weight in weights.items()}
    inject_adapter_in_model(config, hf, adapter_name=name)
    taken = {
        key: tuple(weight.shape)
        for key, weight in get_peft_model_state_dict(hf, adapter_name=name, save_embedding_layers=False).items()
    }
    for key, weight in weights.items():
        if tuple(weight.shape) != taken.get(key, tuple(weight.shape)):
            raise ValueError(
                f"{key} has the shape {tuple(weight.shape)} and {type(hf).__name__} takes {taken[key]}; it is of another model"
            )
    strangers = set_peft_model_state_dict(hf, weights, adapter_name=name).unexpected_keys
    if strangers:
        raise ValueError(
            f"it has {len(strangers)} weights that {type(hf).__name__} has no place for, {strangers[0]} first"
        )
    missing = sorted(key for key in taken.keys() - weights.keys() if ".lora_" in key)
    if missing:
        raise ValueError(
            f"it lacks {len(missing)} weights that {type(hf).__name__} takes, {missing[0]} first; it is of another model"
        )
    for layer in adapter_layers(hf):
        _switch(layer, False, [name])
    hf.eval()


def adapter_layers(hf: nn.Module) -> list[Any]:
    """The layers of a model that hold adapters; none where peft was never used on it."""
    if not hasattr(hf, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return [module for module in hf.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]


def _switch(layer: Any, is_off: bool, names: list[str] | None) -> None:
    if names is not None and names != list(layer.active_adapters):
        layer.set_adapter(names)
    if is_off != layer.disable_adapters:
        layer.enable_adapters(not is_off)
