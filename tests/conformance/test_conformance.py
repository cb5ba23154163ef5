"""Every integration under the same laws: all cases on one architecture, some on all. `scripts/conformance` runs the whole."""

import pytest

from conformance.architectures import ARCHITECTURES
from conformance.cases import CASES, outcome
from conformance.integrations import OURS
from conformance.refused import is_refused

EVERYWHERE = ("left-padded prompts and negatives", "beams, a negative a prompt", "a guide a row")
CELLS = [("gpt2", case, integration) for case in CASES for integration in OURS] + [
    (architecture, case, integration)
    for architecture in ARCHITECTURES
    if architecture != "gpt2"
    for case, integration in zip(EVERYWHERE, ("generate", "generate", "processor"))
]


@pytest.mark.parametrize(("architecture", "case", "integration"), CELLS)
def test_right_or_refused(architecture: str, case: str, integration: str) -> None:
    found = outcome(CASES[case], OURS[integration], ARCHITECTURES[architecture])
    if is_refused(architecture, case, integration):
        assert found.startswith("refused: ")
    else:
        assert found in ("right", "-"), found
