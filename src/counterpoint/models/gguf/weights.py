"""The weights of a GGUF file under the names and in the layout that transformers' model wants."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from counterpoint.errors import ModelError
from counterpoint.models.gguf.file import GgufFile, dequantized

#: tensors that hold no weights: `config` and `load` read them
POSITIONS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def read_weights(file: GgufFile, model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Names in the model and float32 weights, one by one, each in memory of its own. What several tensors are joined
    into (a mixture's experts) comes last.

    Raises:
        ModelError: transformers knows no place for a tensor.
    """
    processor = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)(config=model.config.to_dict())
    tensors = [tensor for name, tensor in file.tensors.items() if name not in POSITIONS]
    names = get_gguf_hf_weights_map(_Flat(model), processor)
    if any(tensor.name not in names for tensor in tensors):
        names = get_gguf_hf_weights_map(model, processor)
    joined: dict[str, Tensor] = {}
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        ahead = max(2, torch.get_num_threads())
        made = [pool.submit(dequantized, tensor.data, tensor.tensor_type) for tensor in tensors[:ahead]]
        for at, tensor in enumerate(tensors):
            if at + ahead < len(tensors):
                made.append(pool.submit(dequantized, tensors[at + ahead].data, tensors[at + ahead].tensor_type))
            weights, made[at] = made[at].result(), None
            done = processor.process(
                weights=weights, name=tensor.name, tensor_key_mapping=names, parsed_parameters={"tensors": joined}
            )
            if done.name is None:
                continue
            if done.name not in names:
                raise ModelError(
                    f"{file.shown!r} has a tensor {tensor.name}, which transformers has no place for in "
                    f"{type(model).__name__}; load the model's original"
                )
            yield names[done.name], torch.from_numpy(done.weights)
    yield from joined.items()


class _Flat:
    """A model without submodules, for transformers' map of names: it makes one for each submodule, which takes seconds
    and finds more names only where a file was made from an inner model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = model.config
        self.state_dict = model.state_dict
        self.named_children = dict
