"""Drawn pictures of one shape, and where it is: left, middle or right, and top, middle or bottom."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES = ("circle", "square", "triangle")
COLOURS = {"red": (214, 40, 40), "green": (38, 150, 70), "blue": (40, 80, 210), "yellow": (235, 190, 30)}
ACROSS, DOWN = ("left", "middle", "right"), ("top", "middle", "bottom")
MIDDLE = 0.02  # of the picture's width or height: no farther from its centre is in the middle
EDGES = 8  # each pixel is the mean of so many, squared


@dataclass(frozen=True, slots=True)
class Drawn:
    """A shape and its centre, as shares of the picture's width and height from its upper left corner."""

    shape: str
    colour: str
    x: float
    y: float
    extent: float
    background: tuple[int, int, int]

    @property
    def across(self) -> str:
        return place(self.x, ACROSS)

    @property
    def down(self) -> str:
        return place(self.y, DOWN)

    def picture(self, size: int) -> Image:
        """As a picture of `size` x `size` pixels."""
        from PIL import Image, ImageDraw

        fine = size * EDGES
        image = Image.new("RGB", (fine, fine), self.background)
        half = self.extent / 2
        box = [(self.x - half) * fine, (self.y - half) * fine, (self.x + half) * fine, (self.y + half) * fine]
        draw, colour = ImageDraw.Draw(image), COLOURS[self.colour]
        if self.shape == "circle":
            draw.ellipse(box, fill=colour)
        elif self.shape == "square":
            draw.rectangle(box, fill=colour)
        else:
            draw.polygon([(box[0], box[3]), (box[2], box[3]), (self.x * fine, box[1])], fill=colour)
        return image.resize((size, size), Image.Resampling.BOX)


def place(centre: float, names: tuple[str, str, str]) -> str:
    """Which of the three a centre lies in; within 2 % of the picture's own centre is the middle."""
    offset = centre - 0.5
    return names[1] if abs(offset) <= MIDDLE else names[0] if offset < 0 else names[2]


def drawn(count: int, *, seed: int) -> Iterator[Drawn]:
    """So many shapes, at each of the nine places in turn."""
    chance = random.Random(seed)
    for number in range(count):
        column, row = number % 3, number // 3 % 3
        grey = chance.randrange(190, 256)
        yield Drawn(
            shape=chance.choice(SHAPES),
            colour=chance.choice(list(COLOURS)),
            x=_centre(column, chance),
            y=_centre(row, chance),
            extent=chance.uniform(0.16, 0.24),
            background=(grey, grey, grey),
        )


def _centre(third: int, chance: random.Random) -> float:
    if third == 1:
        return 0.5 + chance.uniform(-MIDDLE, MIDDLE)
    offset = chance.uniform(0.08, 0.36)
    return 0.5 - offset if third == 0 else 0.5 + offset
