import numpy as np
import pytest
from PIL import Image

from counterpoint.contexts.pictures import blank, change_of, noisy, without
from counterpoint.errors import PromptError


@pytest.fixture
def picture():
    ramp = np.linspace(0, 255, 64)[None, :, None] * np.ones((64, 1, 3))
    return Image.fromarray(ramp.astype(np.uint8))


def likeness(a, b) -> float:
    return float(np.corrcoef(np.asarray(a, float).ravel(), np.asarray(b, float).ravel())[0, 1])


def test_noise_grows_with_its_steps(picture):
    assert np.array_equal(np.asarray(noisy(picture, 0)), np.asarray(picture))
    some, much, all_of_it = (likeness(picture, noisy(picture, steps)) for steps in (200, 500, 1000))
    assert 0.99 > some - 0.01 > much > 0.3 and abs(all_of_it) < 0.3
    assert noisy(picture).size == picture.size


def test_noise_is_seeded(picture):
    a, b, other = noisy(picture, 500, seed=1), noisy(picture, 500, seed=1), noisy(picture, 500, seed=2)
    assert np.array_equal(np.asarray(a), np.asarray(b)) and not np.array_equal(np.asarray(a), np.asarray(other))


def test_a_box_takes_the_mean_of_the_rest(picture):
    got = np.asarray(without(picture, (0, 0, 32, 64)))
    assert (got[:, :32] == got[0, 0]).all() and np.array_equal(got[:, 32:], np.asarray(picture)[:, 32:])
    assert abs(int(got[0, 0, 0]) - np.asarray(picture)[:, 32:].mean()) <= 1


def test_blank_is_one_colour(picture):
    got = np.asarray(blank(picture))
    assert got.shape == (64, 64, 3) and (got == got[0, 0]).all() and abs(int(got[0, 0, 0]) - 127) <= 1


def test_grey_and_transparent_pictures_are_read(picture):
    for mode in ("L", "RGBA", "P"):
        assert noisy(picture.convert(mode), 100).mode == "RGB"


@pytest.mark.parametrize(
    "call",
    [
        lambda p: noisy(p, -1),
        lambda p: noisy(p, 1001),
        lambda p: noisy(p, 2.5),
        lambda p: noisy("cat.png"),
        lambda p: without(p, (0, 0, 65, 10)),
        lambda p: without(p, (5, 5, 5, 10)),
        lambda p: blank(None),
    ],
)
def test_wrong_arguments_are_one_line(picture, call):
    with pytest.raises(PromptError) as caught:
        call(picture)
    assert "\n" not in str(caught.value) and "use" in str(caught.value)


def test_changes_by_their_names(picture):
    for kind, want in (("noisy", noisy(picture)), ("noisy:90", noisy(picture, 90)), ("blank", blank(picture))):
        assert np.array_equal(np.asarray(change_of(kind)(picture)), np.asarray(want))
    assert change_of("none")(picture) is None
    for kind in ("fog", "noisy:x", "noisy:1001", "blank:3", ""):
        with pytest.raises(PromptError, match="use noisy:STEPS"):
            change_of(kind)
