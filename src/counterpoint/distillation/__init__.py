"""A guide made into an adapter: its effect in one context, without a second branch, in any engine.

`distil` is the whole surface. The files behind it: `config` and `rules` (values), `dialogues` (prompts), `reading` (what
teacher and student read), `own_prompts` and `answers` (written under guidance), `targets`, `loss`, `student` and `training`
(the adapter learns), `gains` and `card` (what came of it), `run` (all of it, in order).

Needs `pip install '.[adapters]'`.
"""

from counterpoint.distillation.config import Adapter, Training, Writing
from counterpoint.distillation.dialogues import Dialogue, read_file
from counterpoint.distillation.gains import Gains
from counterpoint.distillation.rules import Rule, read_rule
from counterpoint.distillation.run import Distilled, distil

__all__ = [
    "Adapter", "Dialogue", "Distilled", "Gains", "Rule", "Training", "Writing", "distil", "read_file", "read_rule",
]  # fmt: skip
