"""Principal directions by power iteration."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-12  # of 1 - |cos| between two iterates
MOST_ITERATIONS = 20_000
LEAST_SHARE = 1e-12  # of the sum of squares: below it is the rounding of float32


def principal_directions(samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions along which samples are longest, the longest first: the leading right singular vectors.

    Power iteration on the samples' Gram matrix G = X X^T, which has the singular values' squares as its eigenvalues
    and is small where samples are few: u <- G u / |G u|, then v = X^T u / |X^T u|. Each direction that was found is
    taken out of the samples (deflation), and taken out of every further iterate again, since rounding lets it come
    back (re-orthogonalising). The samples are not centred: differences of pairs have both signs, so their mean is
    their very direction.

    Args:
        samples: (N, H).
        count: how many, from 1 to the rank of the samples; past it there are fewer.

    Returns:
        (K, H) unit directions of float64, each with its sign so that the samples' mean does not point against it, and
        (K,) shares of the samples' sum of squares. K is 0 where all samples are zero.
    """
    samples = samples.double()
    total = float(samples.square().sum())
    left = samples.clone()  # without the directions that were found
    found: list[Tensor] = []
    shares: list[float] = []
    for _ in range(min(count, *samples.shape)):
        direction = _longest(left, torch.stack(found) if found else samples[:0])
        if direction is None or float((left @ direction).square().sum()) <= LEAST_SHARE * total:
            break
        shares.append(float((samples @ direction).square().sum()) / total)
        left = left - torch.outer(left @ direction, direction)
        found.append(-direction if float(samples.mean(0) @ direction) < 0 else direction)
    if not found:
        return samples.new_zeros(0, samples.shape[1]), samples.new_zeros(0)
    return torch.stack(found), samples.new_tensor(shares)


def _longest(samples: Tensor, found: Tensor) -> Tensor | None:
    """The unit direction (H,) along which samples (N, H) are longest; None where nothing is left of them."""
    size = float(samples.norm())
    if size == 0 or not size > 0:
        return None
    samples = samples / size
    gram = samples @ samples.T
    iterate = gram[int(gram.diagonal().argmax())].clone()
    if float(iterate.norm()) == 0:
        return None
    iterate /= iterate.norm()
    for _ in range(MOST_ITERATIONS):
        after = gram @ iterate
        if len(found):
            # In the samples' space, where the found directions are: v = X^T u, v -= F^T F v, u = X v.
            direction = samples.T @ after
            direction -= found.T @ (found @ direction)
            after = samples @ direction
        length = float(after.norm())
        if length == 0:
            return None
        after /= length
        change = 1 - abs(float(after @ iterate))
        iterate = after
        if change < TOLERANCE:
            break
    direction = samples.T @ iterate
    if len(found):
        direction -= found.T @ (found @ direction)
    length = float(direction.norm())
    return None if length == 0 else direction / length
