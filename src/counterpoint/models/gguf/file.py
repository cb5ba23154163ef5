"""A GGUF file, or all parts of a split one: its fields and its tensors, which stay in the file until they are asked for."""

from __future__ import annotations

import re
import struct
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from counterpoint.errors import ModelError
from counterpoint.models.gguf.find import parts

UNKNOWN_TYPE = re.compile(r"(\d+)\)? is not a valid GGMLQuantizationType")
BLOCKS = 128  #: of a quantized type, dequantized as one row


class Truncated(ValueError):
    """The file ends before what its header promises."""


class Reader(gguf.GGUFReader):
    """gguf's reader, which reads a list as a whole (its own makes several arrays for each token of a vocabulary) and
    notices the end of the file."""

    def _get(self, offset, dtype, count=1, override_order=None):
        if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise Truncated
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs, raw_type):
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        length = int(self._get(orig_offs + 4, np.uint64)[0])
        start = end = orig_offs + 12
        if kind == GGUFValueType.STRING:
            data = memoryview(self.data)
            for _ in range(length):
                if end + 8 > len(data):
                    raise Truncated
                end += 8 + struct.unpack_from("<Q", data, end)[0]
            values = self._get(start, np.uint8, end - start)
        elif kind in self.gguf_scalar_to_np:
            values = self._get(start, self.gguf_scalar_to_np[kind], length)
            end += values.nbytes
        else:
            return super()._get_field_parts(orig_offs, raw_type)
        return end - orig_offs, [values], [0], [GGUFValueType.ARRAY, kind]


class GgufFile:
    """What a file says and holds.

    Args:
        path: the file, or any part of a split one, whose other parts lie beside it.
        shown: what messages call it.

    Attributes:
        fields: the value of each field by its name; lists are lists.
        types: the GGUF types of each field.
        tensors: gguf's tensors by name. `data` is a view of the file.

    Raises:
        ModelError: it is no GGUF file, it is cut off or damaged, or a part is missing.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self.path, self.shown = path.with_name(parts(path.name)[0]), shown
        readers = _readers(path, shown)
        self.types = {name: field.types for name, field in readers[0].fields.items()}
        self.fields = {name: _value(field) for name, field in readers[0].fields.items()}
        self.tensors = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
        promised = self.fields.get("split.tensors.count", len(self.tensors))
        if promised != len(self.tensors):
            raise ModelError(f"{shown!r} has {len(self.tensors)} tensors in all its parts, not {promised}")
        if not isinstance(self.fields.get("general.architecture"), str):
            raise ModelError(f"{shown!r} has no field general.architecture, so it is no model")
        self._check_quantization()

    @property
    def architecture(self) -> str:
        return self.fields["general.architecture"]

    def own(self, name: str, default: Any = None) -> Any:
        """A field of the architecture, such as `context_length`."""
        return self.fields.get(f"{self.architecture}.{name}", default)

    @property
    def quantizations(self) -> dict[str, int]:
        """The number of weights in each type, the most first."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def _check_quantization(self) -> None:
        for kind in {tensor.tensor_type for tensor in self.tensors.values()}:
            try:
                dequantized(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
            except NotImplementedError:
                raise ModelError(
                    f"{self.shown!r} has weights of type {kind.name}, which gguf can't dequantize; take the model in "
                    "another one, such as Q8_0"
                ) from None


def dequantized(data: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """The weights as float32, in memory of their own.

    Args:
        data: (..., bytes of a row) or (..., weights of a row), as gguf's reader gives it.
    """
    if not data.size or gguf.GGML_QUANT_SIZES[kind][0] == 1:
        return np.array(gguf.dequantize(data, kind), np.float32)
    # gguf takes 16 rows at a time, and rows of this length are quicker than short ones. Blocks never depend on rows.
    size, size_bytes = gguf.GGML_QUANT_SIZES[kind]
    num_blocks = data.size // size_bytes
    in_row = next(count for count in range(min(num_blocks, BLOCKS), 0, -1) if num_blocks % count == 0)
    weights = gguf.dequantize(data.reshape(-1, in_row * size_bytes), kind)
    return weights.reshape(*data.shape[:-1], data.shape[-1] // size_bytes * size)


def _readers(path: Path, shown: str) -> list[Reader]:
    """A reader of the file, or of each part of a split one in their order."""
    found = [path.with_name(name) for name in parts(path.name)]
    for number, part in enumerate(found, 1):
        if not part.is_file():
            raise ModelError(
                f"{shown!r} is split, and part {number} of {len(found)} is missing: put {part.name} beside it"
            )
    readers = [_opened(part, shown if len(found) == 1 else str(part)) for part in found]
    count = _value(readers[0].fields["split.count"]) if "split.count" in readers[0].fields else 0
    if count > len(found):
        raise ModelError(
            f"{shown!r} is one of {count} parts, and its name does not end like -00001-of-{count:05}.gguf, so the "
            "others can't be found; give it its old name"
        )
    return readers


def _opened(path: Path, shown: str) -> Reader:
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(f"{shown!r} is no GGUF file: it begins with {magic!r}, not with b'GGUF'")
    try:
        reader = Reader(path)
    except (Truncated, struct.error, IndexError):
        raise ModelError(
            f"{shown!r} ends after {size:,} bytes, before its header or its weights do; it is cut off: get it again"
        ) from None
    except Exception as error:  # gguf raises many kinds for a file that can't be read
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        unknown = UNKNOWN_TYPE.search(said)
        if unknown is not None:
            said = f"its weights are of type {unknown[1]}, which gguf {version('gguf')} does not know; try a newer gguf"
        raise ModelError(f"{shown!r} can't be read as GGUF: {said}") from error
    if reader.byte_order != "I":
        raise ModelError(f"{shown!r} was written for processors of the other byte order; convert it with gguf")
    return reader


def _value(field: gguf.ReaderField) -> Any:
    if field.types == [GGUFValueType.ARRAY, GGUFValueType.STRING]:
        return _strings(field.parts[-1].tobytes())
    return field.contents()


def _strings(data: bytes) -> list[str]:
    at, found = 0, []
    while at < len(data):
        start = at + 8
        at = start + struct.unpack_from("<Q", data, at)[0]
        found.append(data[start:at].decode("utf-8", "replace"))
    return found
