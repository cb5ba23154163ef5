"""The sweep's short version: a class of each kind of cache, position and mask. `scripts/sweep` runs all classes."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from sweep.checks import CHECKS, GUIDE, N12, P5, Oracle, Wrong, compare, outcome
from sweep.classes import SHORT, swept
from sweep.record import Line, Record, installed, read_record, table
from sweep.shrink import VOCAB

SOME = ("engine, ragged batch", "padded prompts", "beams", "padding that ends texts")
#: classes of `SHORT` that read both ways as their default config has them, which our own rows refuse
REFUSED = {"BertLMHeadModel"}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, while some modules are imported


@pytest.fixture(autouse=True)
def _quick():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


@functools.cache
def _small(name: str) -> tuple[PreTrainedModel, Oracle]:
    model = swept()[name].model()
    return model, Oracle(model)


@pytest.mark.parametrize("name", [name for name in SHORT if name in swept()])
def test_right_or_refused(name: str) -> None:
    found = {
        check: outcome(CHECKS[check], *_small(name)) for check in SOME if swept()[name].kind in CHECKS[check].kinds
    }
    allowed = ("right", "refused") if name in REFUSED else ("right",)
    assert {check: result for check, result in found.items() if result.partition(":")[0] not in allowed} == {}


def test_every_causal_class_is_swept() -> None:
    names = {one.cls.__name__ for one in swept().values()}
    for config in MODEL_FOR_CAUSAL_LM_MAPPING:
        found = MODEL_FOR_CAUSAL_LM_MAPPING[config]
        assert {cls.__name__ for cls in (found if isinstance(found, tuple) else (found,))} <= names


def test_a_cache_that_is_wrong_is_found() -> None:
    """The checks can fail: a model that forgets what it cached."""
    model, oracle = _small("LlamaForCausalLM")
    attention = model.model.layers[0].self_attn
    hook = attention.register_forward_hook(
        lambda _m, _a, out: (out[0] * (1.0 if out[0].shape[1] > 1 else 0.5), *out[1:])
    )
    try:
        assert outcome(CHECKS["padded prompts"], model, Oracle(model)).startswith(("wrong", "refused"))
    finally:
        hook.remove()
    with pytest.raises(Wrong, match="off by"):
        compare(oracle, [P5], [N12], [GUIDE], [(7,) * 16])


def test_records_are_kept_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = Record(installed())
    record.lines["A"] = Line("causal", None, {"engine": "right", "beams": "refused: too short | say so"})
    record.lines["B"] = Line("causal", "TypeError: no ids", {})
    record.save(path)
    again = read_record(path)
    assert again.lines == record.lines and again.versions == installed()
    assert [line.verdict for line in again.lines.values()] == ["refused", "no model"]
    shown = table(again, list(CHECKS), {name: check.kinds for name, check in CHECKS.items()})
    assert "Of 2 results, 1 are right and 1 refused (50.0%)." in shown
    assert "| A | beams: refused: too short / say so |" in shown and "| engine | 1 | 0 | 0 | 0 | 0 |" in shown
    assert list(tmp_path.iterdir()) == [path]


def test_small_models_are_alike_at_each_call() -> None:
    one, other = swept()["LlamaForCausalLM"].model(), swept()["LlamaForCausalLM"].model()
    assert one.config.get_text_config().vocab_size == VOCAB
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
