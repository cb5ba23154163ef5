"""What stands around a model of transformers: peft's wrappers are taken off, or refused where they do more than hold it."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from conformance.architectures import ARCHITECTURES
from torch import nn

import counterpoint as cp
from counterpoint.engine.generate import generate
from counterpoint.errors import UnsupportedError, UsageError
from counterpoint.models.model import Model
from counterpoint.transformers import GuidanceLogitsProcessor

# what peft asks of transformers
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PROMPT, NEGATIVE, NEW = (7, 12, 9, 33), (40, 8, 66), 8


def _wrapped(config: Any) -> Any:
    torch.manual_seed(0)
    return peft.get_peft_model(copy.deepcopy(ARCHITECTURES["llama"].model()), config).eval()


@torch.no_grad()
def _anew(model: nn.Module) -> list[int]:
    """Guided at 3 by the wrapper's own forward, each time of the whole text."""
    written: list[int] = []
    for _ in range(NEW):
        cond, negative = (
            model(input_ids=torch.tensor([(*text, *written)]), use_cache=False).logits[0, -1].log_softmax(-1)
            for text in (PROMPT, NEGATIVE)
        )
        written.append(int((negative + 3.0 * (cond - negative)).argmax()))
    return written


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False),
        peft.IA3Config(task_type="CAUSAL_LM", init_ia3_weights=False),
    ],
)
def test_a_wrapper_whose_adapter_changes_weights_is_taken_off(config: Any) -> None:
    model = _wrapped(config)
    ours = Model(model, compile=False)
    assert ours.hf is model.get_base_model()
    done = generate(
        ours, list(PROMPT), negative=list(NEGATIVE), guide=cp.Guide(scale=3.0), max_tokens=NEW, temperature=0.0
    )
    assert list(done.token_ids) == _anew(model)
    with model.disable_adapter():
        assert list(done.token_ids) != _anew(model)  # the adapter tells in these texts


@pytest.mark.parametrize("kind", [peft.PrefixTuningConfig, peft.PromptTuningConfig, peft.PromptEncoderConfig])
def test_prompts_that_peft_learned_are_refused_before_the_first_token(kind: Any) -> None:
    model = _wrapped(kind(task_type="CAUSAL_LM", num_virtual_tokens=5))
    with pytest.raises(UnsupportedError, match="predicts something else than .* such as LoRA"):
        Model(model)
    with pytest.raises(UnsupportedError, match="predicts something else than .* such as LoRA"):
        GuidanceLogitsProcessor(model, cp.Guide(scale=3.0))


def test_a_module_without_a_model_of_transformers_is_refused() -> None:
    with pytest.raises(UsageError, match="Linear is no model of transformers"):
        Model(nn.Linear(2, 2))


def test_training_is_left_on_where_it_was() -> None:
    model = _wrapped(peft.LoraConfig(task_type="CAUSAL_LM")).train()
    GuidanceLogitsProcessor(model, cp.Guide(scale=3.0))
    assert model.training and model.get_base_model().training
