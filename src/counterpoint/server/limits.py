"""What one server takes on, and how many rows fit into the memory that it is given."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch

from counterpoint.errors import SamplingError, UnsupportedError
from counterpoint.models.model import Model
from counterpoint.models.ragged import BLOCK, RaggedRows
from counterpoint.models.rows import Feed


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one server.

    Args:
        max_rows: branches of running samples at once.
        max_waiting: samples that wait for rows; past it the answer is 429. At least `max_samples`.
        max_samples: prompts times `n` of one request.
        max_branches: contexts of one request beside its prompt.
        max_prompt_tokens: of each context; None is what the model holds.
        max_tokens: most tokens that a request may ask for; None is what the model holds.
        max_body_bytes: of a request.
        deadline_s: from a request's arrival to its end.
        prefill_tokens: prompt tokens read in one step while others write: the wait between two of their tokens.
        idle_prefill_tokens: the same while nobody writes: the wait before a new request is looked at.
        prefix_tokens: most tokens of ended requests to keep, so that others which begin alike read less; 0 is none.
        batch_rows: most rows that jobs use while others are served; alone they use all.
        max_file_bytes: of an uploaded file.
        repeatable: as in `Engine`: the same tokens alone and beside others, in every precision.
    """

    max_rows: int = 64
    max_waiting: int = 256
    max_samples: int = 64
    max_branches: int = 8
    max_prompt_tokens: int | None = None
    max_tokens: int | None = None
    max_body_bytes: int = 1 << 20
    deadline_s: float = 600.0
    prefill_tokens: int = 256
    idle_prefill_tokens: int = 512
    prefix_tokens: int = 4096
    batch_rows: int = 8
    max_file_bytes: int = 512 << 20
    repeatable: bool = False

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "repeatable":
                continue
            if (value is None and f.default is None) or (f.name == "prefix_tokens" and value == 0):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise SamplingError(f"{f.name} is {value!r}; use a number above 0")
        if self.max_waiting < self.max_samples:
            raise SamplingError(
                f"max_waiting is {self.max_waiting}, below max_samples at {self.max_samples}, so that some requests "
                "could never be taken; raise it"
            )


def rows_in(model: Model, num_bytes: int, row_tokens: int) -> int:
    """How many rows of `row_tokens` tokens fit into `num_bytes` of memory for keys and values.

    Rows share buffers that double, so the answer is a power of two.

    Raises:
        SamplingError: not even one row fits.
        UnsupportedError: the model's rows don't grow with their tokens, or their size is not known.
    """
    row_bytes = -(-row_tokens // BLOCK) * BLOCK * token_bytes(model)
    if num_bytes < row_bytes:
        raise SamplingError(
            f"the memory for rows is {num_bytes / 2**20:.0f} MiB and one row of {row_tokens} tokens takes "
            f"{row_bytes / 2**20:.0f} MiB; raise it or shorten prompts"
        )
    return 2 ** int(math.log2(num_bytes / row_bytes))


@torch.inference_mode()
def token_bytes(model: Model) -> float:
    """Bytes that one token takes in one row: 2 (keys, values) * layers * heads * width * bytes of a number.

    Measured on a row of one token, so that no architecture is guessed at.

    Raises:
        UnsupportedError: the model keeps a state of its own kind.
    """
    rows = model.new_rows()
    if not isinstance(rows, RaggedRows):
        raise UnsupportedError(
            f"the rows of {model.name} can't be measured in tokens; give their number with --max-rows"
        )
    row = rows.add()
    rows.forward([Feed(row, [0])])
    return rows.num_bytes / (2 * (BLOCK + 1))  # two slots at first
