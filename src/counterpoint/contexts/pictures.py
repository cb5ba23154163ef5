"""Pictures for a negative branch: what a vision-language model shall be pushed away from seeing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from counterpoint.errors import PromptError

if TYPE_CHECKING:
    from PIL.Image import Image

NUM_STEPS = 1000  # of the diffusion whose noise is added


def noisy(image: Image, steps: int = 500, *, seed: int = 0) -> Image:
    """The picture under the noise of a diffusion's first steps: what a model says of it is guessed and not seen.

    x_t = sqrt(a_t) x + sqrt(1 - a_t) noise, on channel values scaled to -1 to 1, with a_t the product of 1 - b_i over the
    first t steps and b_i on a sigmoid from 1e-5 to 5e-3. The source adds it to pixels as a processor has normalised them;
    here it is added before, so that it does not depend on the model.

    Args:
        image: a picture of Pillow.
        steps: 0 (as it is) to 1000 (nothing is left); the source has 500 for most, with plausibility 0.1.
        seed: of the noise.

    Raises:
        PromptError: no picture, or steps out of range.

    Source: visual contrastive decoding, Leng et al. 2023, arXiv 2311.16922, equation 2.
    """
    import numpy as np

    _check(image)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= NUM_STEPS:
        raise PromptError(f"steps is {steps!r}; use a number of noise steps from 0 to {NUM_STEPS}")
    betas = 1e-5 + (5e-3 - 1e-5) / (1 + np.exp(-np.linspace(-6, 6, NUM_STEPS)))
    kept = float(np.prod(1 - betas[:steps]))
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 127.5 - 1
    noise = np.random.default_rng(seed).standard_normal(pixels.shape)
    return _picture(kept**0.5 * pixels + (1 - kept) ** 0.5 * noise)


def without(image: Image, box: tuple[int, int, int, int]) -> Image:
    """The picture with a part of it replaced by the mean colour of the rest.

    Args:
        image: a picture of Pillow.
        box: left, upper, right, lower in pixels; right and lower are not part of it.

    Raises:
        PromptError: no picture, or a box that is empty or reaches beyond it.
    """
    import numpy as np

    _check(image)
    left, upper, right, lower = box
    width, height = image.size
    if not (0 <= left < right <= width and 0 <= upper < lower <= height):
        raise PromptError(
            f"box is {box!r}; use left, upper, right, lower within the picture of {width} x {height} pixels"
        )
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64).copy()
    rest = np.ones((height, width), dtype=bool)
    rest[upper:lower, left:right] = False
    pixels[~rest] = (pixels[rest] if rest.any() else pixels.reshape(-1, 3)).mean(axis=0)
    return _picture(pixels / 127.5 - 1)


def blank(image: Image) -> Image:
    """A picture of that size in its mean colour.

    Raises:
        PromptError: no picture.
    """
    _check(image)
    return without(image, (0, 0, *image.size))


def change_of(kind: str, *, seed: int = 0) -> Callable[[Image], Image | None]:
    """How a picture becomes that of a negative, by a name: "noisy", "noisy:STEPS", "blank", or "none" for no picture.

    Raises:
        PromptError: another name.
    """
    name, _, steps = kind.partition(":")
    if name == "noisy" and (not steps or (steps.isdigit() and int(steps) <= NUM_STEPS)):
        return lambda image: noisy(image, int(steps or 500), seed=seed)
    if kind == "blank":
        return blank
    if kind == "none":
        return lambda image: None
    raise PromptError(f"the negative picture is {kind!r}; use noisy:STEPS (0 to {NUM_STEPS}), blank or none")


def _picture(pixels) -> Image:
    """(H, W, 3) from -1 to 1, cut off there."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(((pixels.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8))


def _check(image: object) -> None:
    if not (hasattr(image, "convert") and hasattr(image, "size")):
        raise PromptError(
            f"the picture is a {type(image).__name__}; use a picture of Pillow, as PIL.Image.open gives it"
        )
