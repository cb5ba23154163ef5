"""When two results are the same but for rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def is_close(got: Tensor, want: Tensor) -> bool:
    """Whether two results differ by rounding only: by some units in the last place of the largest logit."""
    return is_within(got, want, 64 * torch.finfo(want.dtype).eps)


def is_within(got: Tensor, want: Tensor, share: float) -> bool:
    """Whether two results differ by at most this share of the largest finite logit, and are at -inf together."""
    got, want = got.float(), want.float().to(got.device)
    finite = want.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return False
    most = float(want[finite].abs().max()) if finite.any() else 0.0
    return bool((got[finite] - want[finite]).abs().amax() <= share * most) if finite.any() else True
