from __future__ import annotations

import inspect

import pytest
import torch
from conformance.architectures import ARCHITECTURES
from transformers import Cache, DynamicCache
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from counterpoint.models.caches import CACHE_NAMES, CAUSAL_FIELD, GENERATED_FIELD, cache_argument, cache_of, is_empty

# Nothing that `generate` could hand on between two steps.
WITHOUT_CACHE = {
    "OpenAIGPTLMHeadModel",
    "XLMWithLMHeadModel",
    "Gemma4AssistantForCausalLM",
    "Gemma4UnifiedAssistantForCausalLM",
}


def causal_classes() -> list[type]:
    found = [MODEL_FOR_CAUSAL_LM_MAPPING[config] for config in MODEL_FOR_CAUSAL_LM_MAPPING]
    return [cls for each in found for cls in (each if isinstance(each, tuple) else (each,))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, while some modules are imported
def test_the_cache_of_every_causal_class_is_found() -> None:
    """A release of transformers that renames it again fails here."""
    lost, unknown = [], []
    for cls in causal_classes():
        name = cache_argument(cls.forward)
        if name is None:
            lost.append(cls.__name__)
        elif name not in CACHE_NAMES or name not in inspect.signature(cls.forward).parameters:
            unknown.append((cls.__name__, name))
    assert set(lost) <= WITHOUT_CACHE
    assert unknown == []


def test_the_fields_of_outputs_are_found() -> None:
    cache = DynamicCache()
    assert CausalLMOutputWithPast(**{CAUSAL_FIELD: cache})[CAUSAL_FIELD] is cache
    assert cache_of(GenerateDecoderOnlyOutput(torch.zeros(1, 1), **{GENERATED_FIELD: cache})) is cache


def test_a_cache_is_found_by_its_type_under_any_name() -> None:
    class Renamed:
        def forward(self, input_ids, kept: Cache | None = None, use_cache: bool = True): ...

    assert cache_argument(Renamed.forward) == "kept"
    cache = DynamicCache()
    assert cache_of({"logits": torch.zeros(1), "kept": cache}) is cache
    assert cache_of({"state": [1], "kept": cache}, "state") == [1]
    assert cache_of({"logits": torch.zeros(1)}) is None


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "mamba", "jamba"])
def test_a_cache_is_empty_until_something_is_read(name: str) -> None:
    model = ARCHITECTURES[name].model()
    cache = DynamicCache(config=model.config)
    assert is_empty(cache)
    model(input_ids=torch.tensor([[5, 6]]), use_cache=True, **{cache_argument(model.forward): cache})
    assert not is_empty(cache)
