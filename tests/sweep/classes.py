"""Which classes of the installed transformers are swept, and how each becomes a small model."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from sweep.shrink import small_model

MAPPINGS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "encoder": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "image": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
}


@dataclass(frozen=True, slots=True)
class Swept:
    """One line of the sweep.

    Args:
        name: of the class, with what sets a variant of it apart.
        kind: "causal", "encoder" or "image".
        changes: fields of its config.
    """

    name: str
    kind: str
    cls: type[PreTrainedModel]
    config_class: type
    changes: dict[str, Any] = field(default_factory=dict)

    def model(self) -> PreTrainedModel:
        return small_model(self.cls, self.config_class, changes=self.changes)


#: what a class can be besides its default: (class, what sets it apart) -> fields of its config
ROPE = {"rope_theta": 10000.0, "original_max_position_embeddings": 32, "factor": 4.0}
VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("Phi3ForCausalLM", "longrope"): {
        "rope_parameters": {
            **ROPE, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 1.5, 4.0, 8.0],
        },
        "original_max_position_embeddings": 32,
    },
    ("LlamaForCausalLM", "dynamic rope"): {
        "rope_parameters": {**ROPE, "rope_type": "dynamic"},
    },
    ("LlamaForCausalLM", "yarn"): {"rope_parameters": {**ROPE, "rope_type": "yarn"}},
    ("LlamaForCausalLM", "linear rope"): {"rope_parameters": {**ROPE, "rope_type": "linear"}},
    ("LlamaForCausalLM", "llama3 rope"): {
        "rope_parameters": {**ROPE, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
    ("FalconForCausalLM", "alibi"): {"alibi": True},
    ("FalconForCausalLM", "new decoder"): {"new_decoder_architecture": True, "num_kv_heads": 2},
    ("Qwen2ForCausalLM", "window"): {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8},
}  # fmt: skip


@functools.cache
def swept() -> dict[str, Swept]:
    """Every class of the mappings by its name, the causal ones first."""
    found: dict[str, Swept] = {}
    for kind, mapping in MAPPINGS.items():
        classes = getattr(modeling_auto, mapping)
        for config_class in classes:
            each = classes[config_class]
            for cls in each if isinstance(each, tuple) else (each,):
                if cls.__name__ in found:
                    continue
                found[cls.__name__] = Swept(cls.__name__, kind, cls, config_class)
                if kind == "causal" and _may_be_decoder(cls, config_class):
                    name = f"{cls.__name__} (decoder)"
                    found[name] = Swept(name, kind, cls, config_class, {"is_decoder": True})
                for (of, what), changes in VARIANTS.items():
                    if of == cls.__name__:
                        name = f"{of} ({what})"
                        found[name] = Swept(name, kind, cls, config_class, changes)
    return found


def _may_be_decoder(cls: type[PreTrainedModel], config_class: type) -> bool:
    """Whether the class reads both ways unless its config says otherwise (BERT)."""
    config_class = getattr(cls, "config_class", None) or config_class
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = config_class()
        except Exception:  # noqa: BLE001 - some defaults can't be made; those are no relatives of BERT
            return False
    return vars(config).get("is_decoder") is False and not config.is_encoder_decoder


#: one class of each kind of cache, position and mask: what the test suite builds
SHORT = (
    "LlamaForCausalLM",
    "LlamaForCausalLM (dynamic rope)",
    "Phi3ForCausalLM (longrope)",
    "GPTNeoForCausalLM",
    "FalconForCausalLM",
    "RobertaForCausalLM (decoder)",
    "BertLMHeadModel",
    "BartForCausalLM",
    "Lfm2ForCausalLM",
    "MiniMaxForCausalLM",
    "Gemma3nForCausalLM",
    "RwkvForCausalLM",
    "Mamba2ForCausalLM",
    "T5ForConditionalGeneration",
    "LlavaForConditionalGeneration",
)
