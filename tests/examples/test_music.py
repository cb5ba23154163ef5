from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import codebook_models as models
import numpy as np
import pytest
import scipy.io.wavfile
import torch

import counterpoint as cp


@pytest.fixture(scope="module")
def music():
    path = Path(__file__).parents[2] / "examples" / "music.py"
    spec = importlib.util.spec_from_file_location("music", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("channels", [1, 2])
def test_a_piece_with_a_negative_becomes_a_file(music, channels, tmp_path):
    model = models.musicgen(channels)
    del model.audio_encoder.decode  # the real one, on codes that stand for something
    torch.manual_seed(1)
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()
    prompt, drums = models.inputs([[5, 6, 1]]), models.inputs([[8, 9, 1]])
    sounds = {
        scale: music.write(model, prompt, drums, cp.Guide(scale=scale), seconds=0.02, seed=0) for scale in (1.5, 4.0)
    }
    assert all(sound.shape[1] == channels and np.abs(sound).max() > 0 for sound in sounds.values())
    assert not np.array_equal(sounds[1.5], sounds[4.0])
    if channels == 2:
        assert music.stereo_difference(sounds[1.5]) > 0
        assert music.stereo_difference(np.repeat(sounds[1.5][:, :1], 2, axis=1)) == 0
    music.save(tmp_path / "piece.wav", sounds[1.5], 16000)
    rate, kept = scipy.io.wavfile.read(tmp_path / "piece.wav")
    assert rate == 16000 and np.abs(kept / 32767 - sounds[1.5].squeeze()).max() < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["piece.wav"]
