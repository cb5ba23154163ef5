"""The student: the teacher's own weights with an adapter that learns beside them, through peft."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from counterpoint.distillation.card import page
from counterpoint.distillation.config import ALL_LINEAR, Adapter
from counterpoint.distillation.folders import whole_folder
from counterpoint.errors import UnsupportedError, UsageError
from counterpoint.formulas import log_probs
from counterpoint.models.adapters import adapter_layers
from counterpoint.models.blocks import BlockEmbedding, BlockLinear
from counterpoint.models.int8 import Int8Linear
from counterpoint.models.model import Model

NAME = "distilled"
PREFIX = "base_model.model."  # what peft's own wrapper puts before every name


class Student:
    """A model's weights with a LoRA that is trained. `close` takes it off again and leaves the model as it was.

    Args:
        model: has no adapter yet; its own weights are not changed.
        config: the shape of the adapter.
        seed: of its first values.

    Raises:
        UnsupportedError: the model has adapters already, or weights that can't be trained beside.
        UsageError: peft is missing, or no layer has one of the names.
    """

    def __init__(self, model: Model, config: Adapter, *, seed: int) -> None:
        check_trainable(model, config)
        from peft import LoraConfig, inject_adapter_in_model

        self.hf, self._config = model.hf, config
        self._num_ids = model.vocab_size
        self._linear = _linear(self.hf)
        self._trainable = [(p, p.requires_grad) for p in self.hf.parameters()]
        taken = inspect.signature(self.hf.forward).parameters
        self._takes_keep, self._takes_use_cache = "logits_to_keep" in taken, "use_cache" in taken
        modules = ALL_LINEAR if config.modules == ALL_LINEAR else list(config.names)
        lora = LoraConfig(
            r=config.rank, lora_alpha=config.scaling, target_modules=modules, lora_dropout=config.dropout,
            task_type="CAUSAL_LM", bias="none",
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self._linear.values()),
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                inject_adapter_in_model(lora, self.hf, adapter_name=NAME)
            except ValueError as error:
                self._layers = {}
                self.close()
                reason = str(error).strip().splitlines()[0].rstrip(".")
                raise UnsupportedError(
                    f"peft can't put an adapter on {type(self.hf).__name__}: {reason}; name other layers with modules",
                    param="modules",
                ) from error
        self._layers = {name: m for name, m in self.hf.named_modules() if m in set(adapter_layers(self.hf))}
        for parameter in self.parameters.values():  # small steps are lost in 16 bits
            parameter.data = parameter.data.float()
        self.hf.eval()  # the model's own dropout stays off: the teacher has none
        for name, module in self.hf.named_modules():
            if f"lora_dropout.{NAME}" in name and config.dropout:
                module.train()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.hf.named_parameters() if p.requires_grad}

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Iterator[Tensor]:
        """Of each (context, answer) the (T, V) log-probabilities at the answer's T tokens, in one forward.

        Rows are padded on the right, where no token of a causal model looks.
        """
        rows = [[*context, *answer[:-1]] for context, answer in sequences]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)], mask[at, : len(row)] = torch.tensor(row), 1
        first = min(len(context) for context, _ in sequences) - 1
        given: dict[str, Any] = {"use_cache": False} if self._takes_use_cache else {}
        if len({len(row) for row in rows}) > 1:
            given["attention_mask"] = mask.to(self.hf.device)
        if self._takes_keep:
            given["logits_to_keep"] = longest - first
        logits = self.hf(input_ids=ids.to(self.hf.device), **given).logits
        before = longest - logits.shape[1]
        for at, (context, answer) in enumerate(sequences):
            begin = len(context) - 1 - before
            yield log_probs(logits[at, begin : begin + len(answer), : self._num_ids])

    def state(self) -> dict[str, Tensor]:
        """The adapter's values, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take values that `state` gave."""
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state[name])

    def save(self, folder: Path, *, base: str, facts: Mapping[str, Any]) -> None:
        """Write the adapter as peft does, with its card.

        Args:
            base: what its config names as the model below it.
            facts: of the card.
        """
        from peft import get_peft_model_state_dict

        config = self.hf.peft_config[NAME]
        config.base_model_name_or_path, config.inference_mode = base, True
        weights = get_peft_model_state_dict(self.hf, adapter_name=NAME, save_embedding_layers=False)
        made = {PREFIX + name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        with whole_folder(folder) as aside:
            config.save_pretrained(str(aside))
            written = json.loads((aside / "adapter_config.json").read_text())
            written["target_modules"] = self._targets()  # a set until now, in another order in each process
            (aside / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
            save_file(made, aside / "adapter_model.safetensors", metadata={"format": "pt"})
            (aside / "distillation.json").write_text(json.dumps(facts, indent=1) + "\n")
            (aside / "README.md").write_text(page(facts))

    def _targets(self) -> list[str]:
        """The adapter's layers by the last parts of their names where these say which, else by their whole names."""
        lasts = {name.rpartition(".")[2] for name in self._layers}
        others = {name.rpartition(".")[2] for name in self._linear if name not in self._layers}
        return sorted(self._layers if lasts & others else lasts)

    def merged(self) -> dict[str, Tensor]:
        """The weights of the layers that have the adapter with it added, by the names that they have without it."""
        made = {}
        for name, layer in self._layers.items():
            weight = layer.get_base_layer().weight
            made[f"{name}.weight"] = (weight.float() + layer.get_delta_weight(NAME).float()).to(weight.dtype).detach()
        return made

    def close(self) -> None:
        """Take the adapter off; the model's layers and what of it can be trained are as before."""
        for name, layer in self._layers.items():
            self.hf.set_submodule(name, layer.get_base_layer())
        if hasattr(self.hf, "peft_config"):
            del self.hf.peft_config
        for parameter, flag in self._trainable:
            parameter.requires_grad_(flag)
        self.hf.eval()


def check_trainable(model: Model, config: Adapter) -> None:
    """Refuse a model, or names of layers, that no adapter can be put on.

    Raises:
        UsageError: peft is missing, or no linear layer has one of the names.
        UnsupportedError: the model has adapters already, or layers over whole numbers.
    """
    kind = type(model.hf).__name__
    if importlib.util.find_spec("peft") is None:
        raise UsageError("distilling needs peft; pip install '.[adapters]'")
    if getattr(model.hf, "peft_config", None):
        raise UnsupportedError(
            f"{kind} has the adapter {', '.join(model.hf.peft_config)} already; merge it into a model folder first"
        )
    if any(isinstance(module, Int8Linear | BlockLinear | BlockEmbedding) for module in model.hf.modules()):
        raise UnsupportedError(f"the weights of {model.name} are kept in 8 or 4 bits; load it without weights=")
    linear = _linear(model.hf)
    head = model.hf.get_output_embeddings()
    known = sorted({name.rpartition(".")[2] for name, module in linear.items() if module is not head})
    if not known:
        raise UnsupportedError(f"{kind} has no linear layers, so no adapter can be put on it")
    for wanted in config.names:
        found = [m for name, m in linear.items() if name == wanted or name.endswith(f".{wanted}")]
        if not found:
            raise UsageError(
                f"modules has {wanted!r}, and {kind} has no linear layer of that name; it has {', '.join(known)}",
                param="modules",
            )
        if head in found and model.hf.config.get_text_config().tie_word_embeddings:
            raise UsageError(
                f"modules has {wanted!r}, the head of {kind}, whose weights are those of its embeddings; name others",
                param="modules",
            )


def _linear(hf: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in hf.named_modules() if isinstance(module, nn.Linear | Conv1D)}
