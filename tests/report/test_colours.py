"""The colours of the pages for readers who see fewer of them: what differs in meaning differs in looks."""

import itertools
import re

import numpy as np
import pytest

from counterpoint.report.page import _source

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]),
}  # fmt: skip


def linear(text):
    if len(text) == 4:
        text = "#" + "".join(2 * digit for digit in text[1:])
    channels = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(colour):
    """CIE L*a*b* of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ colour.clip(0, 1) / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.fixture(params=["light", "dark"])
def palette(request):
    pairs = re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", _source("page.css"))
    return {name: linear(light if request.param == "light" else dark) for name, light, dark in pairs}


@pytest.mark.parametrize("vision", VISION)
def test_shades_differ(palette, vision):
    shades = {
        name: lab(VISION[vision] @ palette[name]) for name in ("d3", "d2", "d1", "paper", "u1", "u2", "u3", "badpaper")
    }
    for a, b in itertools.combinations(("d3", "d2", "d1", "u1", "u2", "u3"), 2):
        # An artefact has a mark of its own; the shades have their colour alone.
        assert np.linalg.norm(shades[a] - shades[b]) > 6, f"{a} and {b} look alike"


@pytest.mark.parametrize("vision", VISION)
def test_lines_differ(palette, vision):
    lines = {name: lab(VISION[vision] @ palette[name]) for name in ("cond", "guided", "b0")}
    assert np.linalg.norm(lines["cond"] - lines["guided"]) > 20
    # A branch's line is dashed as well.
    assert np.linalg.norm(lines["b0"] - lines["guided"]) > 6


def test_text_stands_out_from_every_background(palette):
    def luminance(colour):
        return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]

    for name in ("paper", "panel", "u1", "u2", "u3", "d1", "d2", "d3"):
        low, high = sorted((luminance(palette["ink"]), luminance(palette[name])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name
    low, high = sorted((luminance(palette["bad"]), luminance(palette["badpaper"])))
    assert (high + 0.05) / (low + 0.05) >= 4.5
