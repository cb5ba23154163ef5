"""The harness' `hf` model, opened by this package's loader, so that it is the same model here and everywhere else."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from lm_eval.models.huggingface import HFLM

from counterpoint.errors import UsageError
from counterpoint.models.int8 import to_int8
from counterpoint.models.loading import load
from counterpoint.models.model import Model

#: what only the loader of the harness' `hf` model knows; with one of these it loads the model
HF_LOADING = (
    "backend", "revision", "subfolder", "tokenizer", "use_fast_tokenizer", "add_bos_token", "parallelize", "tp_plan",
    "max_memory_per_gpu", "max_cpu_memory", "offload_folder", "peft", "delta", "autogptq", "gptqmodel", "gguf_file",
    "attn_implementation",
)  # fmt: skip


class OpenedLM(HFLM):
    """The harness' `hf` model.

    Args:
        pretrained: what `counterpoint.load` takes, or a transformers model (then with `tokenizer`).
        weights, compile: as in `counterpoint.load`.
        device: None is CUDA where there is one, else the CPU.
        dtype: "auto" is that of the weights, and float32 for the models that ship with the package.
        options: the other arguments of `hf`.

    Raises:
        UsageError: an encoder-decoder, a model without a tokenizer, or a device or dtype that a loaded model can't take.
    """

    def __init__(
        self,
        pretrained: Any,
        *,
        weights: str | None = None,
        compile: bool | Literal["auto"] = "auto",
        device: str | None = None,
        dtype: str | torch.dtype | None = "auto",
        **options: Any,
    ) -> None:
        if not isinstance(pretrained, str):
            _check_loaded(pretrained, device, dtype)
        self._loaded: Model | None = None
        self._loading = {"dtype": None if dtype == "auto" else dtype, "weights": weights, "compile": compile}
        self._loads_itself = isinstance(pretrained, str) and not any(options.get(name) for name in HF_LOADING)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        super().__init__(pretrained, device=device, dtype=dtype, **options)
        if self.backend != "causal":
            raise UsageError(f"{pretrained} is an encoder-decoder, which this bridge can't guide; use a causal model")
        if self._loaded is not None and pretrained.count("/") != 1:
            self.pretrained = os.path.abspath(pretrained)  # no hub id, which the harness would look up
        if self._loaded is None and weights == "int8":
            to_int8(self.model)
        name = pretrained if isinstance(pretrained, str) else type(pretrained).__name__
        self.guided_model = self._loaded or Model(self.model, self.tokenizer, name=name, compile=compile)

    def _get_config(self, pretrained: Any, **options: Any) -> None:
        """Where the harness asks for the configuration, the device is known and the model is loaded."""
        if not self._loads_itself:
            return super()._get_config(pretrained, **options)
        trusts = bool(options.get("trust_remote_code"))
        self._loaded = load(pretrained, device=self.device, trust_remote_code=trusts, **self._loading)
        self._config = self._loaded.hf.config

    def _create_tokenizer(self, pretrained: Any, *args: Any, **options: Any) -> None:
        if self._loaded is None:
            return super()._create_tokenizer(pretrained, *args, **options)
        if self._loaded.tokenizer is None:
            raise UsageError(f"{pretrained} has no tokenizer, and tasks are texts; give tokenizer=NAME")
        self.tokenizer = self._loaded.tokenizer

    def _create_model(self, pretrained: Any, *args: Any, **options: Any) -> None:
        if self._loaded is None:
            return super()._create_model(pretrained, *args, **options)
        self._model = self._loaded.hf


def _check_loaded(model: torch.nn.Module, device: str | None, dtype: Any) -> None:
    own = str(model.dtype).removeprefix("torch.")
    if device is not None and torch.device(device).type != model.device.type:
        raise UsageError(f"the model is loaded already, on {model.device}, so device={device} would do nothing")
    if dtype not in ("auto", None, own, model.dtype):
        raise UsageError(f"the model is loaded already, as {own}, so dtype={dtype} would do nothing; leave it out")
