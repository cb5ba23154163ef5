"""The weights of a GGUF file under the names and in the layout that transformers' model wants."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from gguf.gguf_reader import ReaderTensor
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from counterpoint.errors import ModelError
from counterpoint.models.gguf.file import GgufFile, dequantized

#: tensors that hold no weights: `config` and `load` read them
POSITIONS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True, slots=True)
class Blocks:
    """A weight as the file has it.

    Args:
        weight: (N, bytes of a row) uint8, the rows in the model's order. N is the number of outputs, also of a layer
            that keeps its weight transposed.
        kind: the name of its GGUF type.
    """

    weight: Tensor
    kind: str


def has_own_loader(architecture: str) -> bool:
    """Whether transformers has a loader for the architecture and no tables of its names and layouts."""
    try:
        from transformers.integrations.gguf import is_gguf_arch_supported
    except ImportError:  # before that loader there were tables alone
        return False
    return is_gguf_arch_supported(architecture) and architecture not in TENSOR_PROCESSORS


def read_weights(
    file: GgufFile, model: PreTrainedModel, kept: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, Tensor | Blocks]]:
    """Names in the model, and weights in float32 or in blocks, one by one, each in memory of its own. What several
    tensors are joined into (a mixture's experts) comes last.

    Args:
        kept: the types that stay in blocks, for each weight in the model that can; all others are dequantized.

    Raises:
        ModelError: transformers knows no place for a tensor.
    """
    processor = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)(config=model.config.to_dict())
    tensors = [tensor for name, tensor in file.tensors.items() if name not in POSITIONS]
    try:
        names = get_gguf_hf_weights_map(_Flat(model), processor)
    except NotImplementedError as error:  # gguf does not know the architecture by transformers' name
        raise ModelError(
            f"transformers {version('transformers')} has no names for the weights of {file.shown!r}, architecture "
            f"{file.architecture!r}; load the model's original"
        ) from error
    if any(tensor.name not in names for tensor in tensors):
        names = get_gguf_hf_weights_map(model, processor)
    joined: dict[str, Tensor] = {}

    def processed(weights: np.ndarray, name: str, beside: dict[str, Tensor]) -> tuple[np.ndarray, str] | None:
        done = processor.process(
            weights=weights, name=name, tensor_key_mapping=names, parsed_parameters={"tensors": beside}
        )
        if done.name is None:
            return None
        if done.name not in names:
            raise ModelError(
                f"{file.shown!r} has a tensor {name}, which transformers has no place for in {type(model).__name__}; "
                "load the model's original"
            )
        return done.weights, names[done.name]

    def made(tensor: ReaderTensor) -> tuple[str, Tensor | Blocks] | np.ndarray:
        if tensor.tensor_type.name in kept.get(names.get(tensor.name, ""), ()):
            order = _row_order(processed, tensor)
            if order is not None:
                return names[tensor.name], Blocks(torch.from_numpy(tensor.data[order]), tensor.tensor_type.name)
        return dequantized(tensor.data, tensor.tensor_type)

    ahead = max(1, torch.get_num_threads())
    with ThreadPoolExecutor(ahead) as pool:
        waiting = deque(pool.submit(made, tensor) for tensor in tensors[: ahead + 1])
        for at, tensor in enumerate(tensors, ahead + 1):
            if at < len(tensors):
                waiting.append(pool.submit(made, tensors[at]))
            done = waiting.popleft().result()
            if isinstance(done, tuple):
                yield done
                continue
            placed = processed(done, tensor.name, joined)
            if placed is not None:
                yield placed[1], torch.from_numpy(placed[0])
    yield from joined.items()


def _row_order(processed: Callable[..., tuple[np.ndarray, str] | None], tensor: ReaderTensor) -> np.ndarray | None:
    """How transformers sorts the rows of a weight; None where it does anything else with them but turn the whole."""
    rows = np.arange(len(tensor.data), dtype=np.float32)[:, None]
    beside: dict[str, Tensor] = {}
    try:
        placed = processed(rows, tensor.name, beside)
    except ValueError:  # a shape is expected
        return None
    sorted_rows = placed[0] if placed is not None else next(iter(beside.values())).numpy() if len(beside) == 1 else None
    if sorted_rows is None or sorted_rows.size != len(rows):
        return None
    order = sorted_rows.reshape(-1).astype(np.int64)
    return order if np.array_equal(np.sort(order), rows[:, 0].astype(np.int64)) else None


class _Flat:
    """A model without submodules, for transformers' map of names: it makes one for each submodule, which takes seconds
    and finds more names only where a file was made from an inner model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.config = model.config
        self.state_dict = model.state_dict
        self.named_children = dict
