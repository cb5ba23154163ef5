"""How good guidance is: a bridge to lm-evaluation-harness, grids of guides, and the frontier of the bundled model.

Needs `pip install '.[eval]'`. Nothing heavy is imported until it is used.
"""

from pathlib import Path

#: Give this among `lm_eval --tasks`, and `--model counterpoint` is known to it.
REGISTER = str(Path(__file__).with_name("register.yaml"))

__all__ = ["REGISTER"]
