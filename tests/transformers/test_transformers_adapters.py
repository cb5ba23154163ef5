from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from conformance.architectures import ARCHITECTURES
from transformers import LogitsProcessorList, PreTrainedModel

from counterpoint.errors import UnsupportedError
from counterpoint.guide import Guide
from counterpoint.transformers import GuidanceLogitsProcessor, generate

# what peft asks of transformers, and leaves out
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
]

PROMPTS = torch.tensor([[7, 12, 9, 33], [7, 12, 9, 33]])
NEGATIVE = torch.tensor([[40, 8, 66]])


def _tuned(config: Any) -> Any:
    torch.manual_seed(0)
    tuned = peft.get_peft_model(copy.deepcopy(ARCHITECTURES["llama"].model()), config, adapter_name="first").eval()
    return tuned


def _asked(model: PreTrainedModel, ours: bool) -> dict[str, Any]:
    if ours:
        return {"custom_generate": generate, "guidance_scale": 3.0, "negative_prompt_ids": NEGATIVE}
    processor = GuidanceLogitsProcessor(model, Guide(scale=3.0), negative_prompt_ids=NEGATIVE)
    return {"logits_processor": LogitsProcessorList([processor])}


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("kind", [peft.PromptTuningConfig, peft.PrefixTuningConfig])
def test_prompts_that_peft_learned_are_refused(kind: Any, ours: bool) -> None:
    model = _tuned(kind(task_type="CAUSAL_LM", num_virtual_tokens=5))
    with pytest.raises(
        UnsupportedError, match="prepare_inputs_for_generation .* adds .* use an adapter that changes weights"
    ):
        model.generate(input_ids=PROMPTS, max_new_tokens=4, do_sample=False, **_asked(model.get_base_model(), ours))


@pytest.mark.parametrize("ours", [True, False])
def test_an_adapter_for_each_row_is_refused_and_one_for_all_is_right(ours: bool) -> None:
    lora = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    model = _tuned(lora)
    model.add_adapter("second", lora)
    asked = {"input_ids": PROMPTS, "max_new_tokens": 6, "do_sample": False}
    with pytest.raises(UnsupportedError, match="adapter_names .* call generate for each adapter"):
        model.generate(**asked, adapter_names=["first", "second"], **_asked(model.get_base_model(), ours))
    told = {}
    for name in ("first", "second"):
        model.set_adapter(name)
        told[name] = model.generate(**asked, **_asked(model.get_base_model(), ours)).tolist()
    assert told["first"] != told["second"]
