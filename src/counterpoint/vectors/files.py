"""Control vectors in files: safetensors, and the GGUF layout that llama.cpp and repeng share.

GGUF: `general.architecture` is "controlvector"; `controlvector.model_hint` names the kind of model (repeng asks for it);
`controlvector.layer_count` counts the directions; each direction is a tensor `direction.N`, (H,) of float32, for the
model's layer N from 0. llama.cpp refuses a direction for layer 0. The safetensors file has the same names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.errors import UnsupportedError, UsageError
from counterpoint.vectors.vector import Vector

ARCHITECTURE = "controlvector"
PREFIX = "direction."
FORMAT = "counterpoint.vector"
ENDINGS = (".safetensors", ".gguf")


def save(vector: Vector, path: str | os.PathLike[str]) -> None:
    """See `Vector.save`. The file is whole or not there."""
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UsageError(f"the vector's file is {str(path)!r}; use a name that ends in {' or '.join(ENDINGS)}")
    part = path.with_name(path.name + ".part")
    try:
        (_write_gguf if path.suffix == ".gguf" else _write_safetensors)(vector, part)
        os.replace(part, path)
    except OSError as error:
        raise UsageError(f"the vector can't be written to {str(path)!r}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Vector:
    """See `Vector.load`."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UsageError(f"the vector {str(path)!r} can't be read: {error.strerror}") from None
    try:
        tensors, model_type, about = (_read_gguf if magic == b"GGUF" else _read_safetensors)(path)
        directions = {_layer(name): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        if not directions:
            raise UsageError(f"it has no tensor {PREFIX}1 or the like")
        return Vector(directions, model_type, about)
    except UnsupportedError:
        raise
    except Exception as error:  # gguf and safetensors raise many kinds for a file that is none of theirs
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"the file {str(path)!r} is no control vector: {reason}") from error


def _layer(name: str) -> int:
    number = name.removeprefix(PREFIX)
    if not (number.isascii() and number.isdigit()):
        raise UsageError(f"its tensor {name!r} names no layer")
    return int(number)


def _write_safetensors(vector: Vector, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {f"{PREFIX}{layer}": direction for layer, direction in vector.directions.items()}
    about = json.dumps(dict(vector.about), ensure_ascii=False)
    save_file(tensors, path, metadata={"format": FORMAT, "model_type": vector.model_type, "about": about})


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        said = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    about = json.loads(said["about"]) if said.get("format") == FORMAT and "about" in said else {}
    return tensors, said.get("model_type", ""), about


def _gguf() -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        raise UnsupportedError("GGUF files need the package gguf; pip install '.[gguf]', or use .safetensors") from None
    return gguf


def _write_gguf(vector: Vector, path: Path) -> None:
    gguf = _gguf()
    if 0 in vector.directions:
        raise UsageError(
            "the vector has a direction for layer 0, which GGUF files of vectors can't have; save .safetensors"
        )
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", vector.model_type)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vector.directions))
    for layer, direction in vector.directions.items():
        writer.add_tensor(f"{PREFIX}{layer}", direction.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(path: Path) -> tuple[dict[str, Tensor], str, dict[str, str]]:
    reader = _gguf().GGUFReader(path)
    kind = _text(reader, "general.architecture")
    if kind != ARCHITECTURE:
        raise UsageError(f"its general.architecture is {kind!r}, not {ARCHITECTURE!r}")
    tensors = {}
    for tensor in reader.tensors:
        if tensor.name.startswith(PREFIX):
            if tensor.data.dtype not in (np.float32, np.float16, np.float64):
                raise UsageError(f"its {tensor.name} is {tensor.tensor_type.name}; directions are F32")
            tensors[tensor.name] = torch.from_numpy(np.array(tensor.data, dtype=np.float32))
    return tensors, _text(reader, f"{ARCHITECTURE}.model_hint"), {}


def _text(reader: Any, name: str) -> str:
    found = reader.get_field(name)
    return "" if found is None else str(bytes(found.parts[-1]), "utf-8", "replace")
