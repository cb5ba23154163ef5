"""transformers' own guidance on the same cases. What is recorded as wrong is expected to fail: a test that passes all
the same tells us that transformers has mended it, and `scripts/conformance --write` is due."""

import pytest

from conformance.architectures import ARCHITECTURES
from conformance.cases import CASES, outcome
from conformance.integrations import Upstream
from conformance.record import UPSTREAM, read_record

RECORDED = read_record().cells[UPSTREAM]
QUICK = {
    "gpt2": list(CASES),
    "llama": ["left-padded prompts and negatives", "prompt lookup"],
    "mamba": ["left-padded prompts and negatives"],
    "rwkv": ["scale 0 is the negative's own"],
    "t5": ["one negative for two prompts"],
    "qwen2_5_vl": ["scale 0 is the negative's own"],
}
CELLS = [
    pytest.param(
        architecture,
        case,
        marks=[pytest.mark.xfail(strict=True, raises=AssertionError)]
        if RECORDED[architecture].get(case, "-") in ("wrong", "error", "refused")
        else [],
    )
    for architecture, cases in QUICK.items()
    for case in cases
    if RECORDED[architecture].get(case, "-") != "-"
]


@pytest.mark.parametrize(("architecture", "case"), CELLS)
def test_as_recorded(architecture: str, case: str) -> None:
    assert outcome(CASES[case], Upstream(), ARCHITECTURES[architecture]) == "right"
