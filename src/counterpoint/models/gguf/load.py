"""From a GGUF file to transformers' model and tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Embedding, Linear, Module, Parameter
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_accelerate_available

from counterpoint.errors import ModelError, UnsupportedError
from counterpoint.models.blocks import BlockEmbedding, BlockLinear
from counterpoint.models.gguf.config import read_config
from counterpoint.models.gguf.file import GgufFile, dequantized
from counterpoint.models.gguf.find import parts
from counterpoint.models.gguf.tokenizer import end_ids, read_tokenizer
from counterpoint.models.gguf.weights import Blocks, has_own_loader, read_weights
from counterpoint.models.int8 import Int8Linear, check_states
from counterpoint.models.kernels import blocks

#: the types whose blocks are layers of ours, by the `weights` that are asked for
KEPT = {None: (), "int8": ("Q8_0",), "int4": ("Q8_0", "Q4_0", "Q4_1")}


def load(
    path: Path, *, shown: str, dtype: torch.dtype | None, weights: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model on the CPU, and its tokenizer.

    Args:
        path: the file, or any part of a split one.
        shown: what messages call it.
        weights: None, "int8" or "int4". With the last two the layers whose weights the file has in such blocks keep
            them, with "int4" the embedding as well; all others get weights of `dtype`.
        dtype: None is bfloat16 where the file's weights are, else float32, which holds every other type exactly.

    Raises:
        ModelError: see `GgufFile`, `read_config`, `read_tokenizer` and `read_weights`; or weights are missing.
        UnsupportedError: blocks are asked for that the machine can't multiply with, or "int4" of a file without any.
    """
    file = GgufFile(path, shown)
    config = read_config(file)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(f"the model {shown!r} is of type {config.model_type!r}, which is not a causal language model")
    tokenizer = read_tokenizer(file)
    if dtype is None:
        dtype = torch.bfloat16 if next(iter(file.quantizations)) == "BF16" else torch.float32
    if has_own_loader(file.architecture):
        model = _by_transformers(file, config, dtype, weights)
    else:
        model = _made(file, config, dtype, weights)
    ends = end_ids(file, tokenizer)
    if ends:
        model.generation_config.eos_token_id = ends
    return model.eval(), tokenizer


def _made(file: GgufFile, config: PreTrainedConfig, dtype: torch.dtype, weights: str | None) -> PreTrainedModel:
    """The model with the file's weights, by transformers' tables of names and layouts."""
    with no_init_weights():  # the memory of the weights is not touched: each is exchanged for the file's
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    if weights is not None:
        check_states(model, weights)
    layers = _fill(model, file, weights)
    if weights == "int4" and not layers:
        raise UnsupportedError(
            f"{file.shown!r} has no weights in {', '.join(KEPT['int4'])}, which int4 keeps as they are; it has "
            f"{', '.join(file.quantizations)}: use weights='int8'"
        )
    for name, layer in layers.items():
        if not isinstance(layer, BlockEmbedding):
            layer.bias = getattr(model.get_submodule(name), "bias", None)
        model.set_submodule(name, layer)
    _divide_frequencies(model, file)
    return model


def _by_transformers(
    file: GgufFile, config: PreTrainedConfig, dtype: torch.dtype, weights: str | None
) -> PreTrainedModel:
    """The model as transformers' own loader makes it, for architectures that it has no tables for."""
    if not is_accelerate_available():
        raise UnsupportedError(
            f"transformers reads the architecture {file.architecture!r} with accelerate alone; pip install accelerate"
        )
    if len(parts(file.path.name)) > 1:
        raise UnsupportedError(
            f"{file.shown!r} is split, and transformers reads the architecture {file.architecture!r} from one file; "
            "join the parts with llama-gguf-split --merge"
        )
    if weights == "int4" or (weights == "int8" and "Q8_0" in file.quantizations):
        raise UnsupportedError(
            f"transformers reads the architecture {file.architecture!r} by itself and keeps no blocks for {weights}; "
            "load it without weights="
        )
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(file.path.parent), gguf_file=file.path.name, config=config, dtype=dtype, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # transformers raises many kinds for what it can't read
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"transformers can't read {file.shown!r}: {said}") from error
    if info["missing_keys"]:
        raise ModelError(f"{file.shown!r} lacks the model's weights {', '.join(sorted(info['missing_keys'])[:3])}")
    return model


def _fill(model: PreTrainedModel, file: GgufFile, weights: str | None) -> dict[str, Module]:
    """Put the file's weights into the model. The layers with weights in blocks or rounded ones, by the names of the
    modules whose places they shall take."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    left = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    modules = {f"{name}.weight": module for name, module in model.named_modules() if f"{name}.weight" in shapes}
    kept = {
        name: KEPT[weights]
        for name, module in modules.items()
        if any(type(own) in (Conv1D, Embedding, Linear) for own in modules.values() if own.weight is module.weight)
    }
    layers: dict[str, Module] = {}
    for name, own in read_weights(file, model, kept):
        left.discard(name)
        module_name, _, leaf = name.rpartition(".")
        module = model.get_submodule(module_name)
        if isinstance(own, Blocks):
            own = Blocks(blocks.laid(own.weight, own.kind), own.kind)
            for other in [other for other, sharing in modules.items() if sharing.weight is module.weight]:
                layer = _over_blocks(own, modules[other], weights, model.dtype)
                if layer is not None:
                    layers[other.removesuffix(".weight")] = layer
            if module_name in layers:
                continue
            own = blocks.weights(own.weight, own.kind)
        if own.squeeze().shape == _squeezed(shapes[name]):  # converters drop dimensions of 1, or keep them
            own = own.reshape(shapes[name])
        if own.shape != shapes[name]:
            raise ModelError(
                f"{file.shown!r} has {name} in the shape {tuple(own.shape)}, and {type(model).__name__} takes "
                f"{tuple(shapes[name])}; load the model's original"
            )
        if weights == "int8" and leaf == "weight" and type(module) in (Conv1D, Linear):
            layers[module_name] = Int8Linear(own.t() if type(module) is Conv1D else own, None)
            continue
        own = own.to(model.dtype)
        setattr(module, leaf, Parameter(own) if leaf in module._parameters else own)
    model.tie_weights()
    tied = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name not in left}
    left = {name for name in left if id(model.get_parameter(name)) not in tied}
    if left:
        raise ModelError(f"{file.shown!r} lacks {len(left)} of the model's weights, {min(left)!r} first")
    return layers


def _over_blocks(own: Blocks, module: Module, weights: str | None, dtype: torch.dtype) -> Module | None:
    if type(module) in (Conv1D, Linear):
        return BlockLinear(own.weight, own.kind)
    return BlockEmbedding(own.weight, own.kind, dtype) if type(module) is Embedding and weights == "int4" else None


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
