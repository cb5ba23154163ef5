"""From a GGUF file to transformers' model and tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from counterpoint.errors import ModelError
from counterpoint.models.gguf.config import read_config
from counterpoint.models.gguf.file import GgufFile, dequantized
from counterpoint.models.gguf.tokenizer import end_ids, read_tokenizer
from counterpoint.models.gguf.weights import read_weights


def load(path: Path, *, shown: str, dtype: torch.dtype | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model on the CPU, and its tokenizer.

    Args:
        path: the file, or any part of a split one.
        shown: what messages call it.
        dtype: None is bfloat16 where the file's weights are, else float32, which holds every other type exactly.

    Raises:
        ModelError: see `GgufFile`, `read_config`, `read_tokenizer` and `read_weights`; or weights are missing.
    """
    file = GgufFile(path, shown)
    config = read_config(file)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(f"the model {shown!r} is of type {config.model_type!r}, which is not a causal language model")
    tokenizer = read_tokenizer(file)
    if dtype is None:
        dtype = torch.bfloat16 if next(iter(file.quantizations)) == "BF16" else torch.float32
    with no_init_weights():  # the memory of the weights is not touched: each is exchanged for the file's
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    _fill(model, file, dtype)
    _divide_frequencies(model, file)
    ends = end_ids(file, tokenizer)
    if ends:
        model.generation_config.eos_token_id = ends
    return model.eval(), tokenizer


def _fill(model: PreTrainedModel, file: GgufFile, dtype: torch.dtype) -> None:
    """Put the file's weights into the model."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    left = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, own in read_weights(file, model):
        if own.squeeze().shape == _squeezed(shapes[name]):  # converters drop dimensions of 1, or keep them
            own = own.reshape(shapes[name])
        if own.shape != shapes[name]:
            raise ModelError(
                f"{file.shown!r} has {name} in the shape {tuple(own.shape)}, and {type(model).__name__} takes "
                f"{tuple(shapes[name])}; load the model's original"
            )
        left.discard(name)
        module_name, _, leaf = name.rpartition(".")
        module, own = model.get_submodule(module_name), own.to(dtype)
        setattr(module, leaf, nn.Parameter(own) if leaf in module._parameters else own)
    model.tie_weights()
    tied = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name not in left}
    left = {name for name in left if id(model.get_parameter(name)) not in tied}
    if left:
        raise ModelError(f"{file.shown!r} lacks {len(left)} of the model's weights, {min(left)!r} first")


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _divide_frequencies(model: PreTrainedModel, file: GgufFile) -> None:
    """Apply the divisors of rotary frequencies that files of Llama 3.1 and later bring in place of a rule."""
    tensor = file.tensors.get("rope_freqs.weight")
    if tensor is None:
        return
    divisors: Tensor = torch.from_numpy(dequantized(tensor.data, tensor.tensor_type))
    rotary = [module for module in model.modules() if isinstance(getattr(module, "inv_freq", None), Tensor)]
    if not rotary or any(module.inv_freq.shape != divisors.shape for module in rotary):
        raise ModelError(f"{file.shown!r} has rope_freqs.weight, which has no place in {type(model).__name__}")
    for module in rotary:
        module.inv_freq /= divisors
        if isinstance(getattr(module, "original_inv_freq", None), Tensor):
            module.original_inv_freq = module.inv_freq.clone()
