"""Training of a small conditioned language model: records with conditions in, a folder that `load` opens out.

`run` is the whole surface; the rooms behind it are `config` (a TOML file as values), `records` (files of JSON lines),
`headers` (conditions as text), `corpus` (held out, deduplicated, tokenised), `windows` (what a step reads),
`network` (the model and its optimisers), `checkpoint`, `curve` and `loop`.
"""

from counterpoint.train.config import TrainConfig, read_config
from counterpoint.train.loop import TrainResult, run

__all__ = ["TrainConfig", "TrainResult", "read_config", "run"]
