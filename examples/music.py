"""Music that is one thing and not another: MusicGen with a negative text, written to WAV files.

    python examples/music.py --model facebook/musicgen-small --prompt "80s pop" --negative "drums" --scales 1,3,6
    python examples/music.py --model facebook/musicgen-stereo-small --prompt "a band in a hall" --scales 1,3 --space prob

For each scale it writes OUT-SCALE.wav and prints, for a stereo model, how far the channels differ: the energy of left
minus right over that of left plus right. Nothing here makes stereo of mono: a stereo model writes both channels itself, and
no open model of this kind that turns one channel into two is known.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io.wavfile
import torch

import counterpoint as cp


def write(model: Any, inputs: Any, negative: Any, guide: cp.Guide, *, seconds: float, seed: int) -> np.ndarray:
    """One piece. -> (samples, channels), from -1 to 1."""
    torch.manual_seed(seed)
    rate = model.config.audio_encoder.frame_rate
    asked = cp.transformers.codebooks(model, inputs, negative=negative, guide=guide)
    sound = model.generate(**asked, do_sample=True, max_new_tokens=max(8, round(seconds * rate)))
    return sound[0].float().numpy().T.clip(-1, 1)


def stereo_difference(sound: np.ndarray) -> float:
    """Energy of left minus right over that of left plus right; 0 where both channels are one. (samples, 2) -> number."""
    left, right = sound[:, 0].astype(float), sound[:, 1].astype(float)
    return float(((left - right) ** 2).sum() / max(((left + right) ** 2).sum(), 1e-12))


def save(path: Path, sound: np.ndarray, rate: int) -> None:
    """16-bit WAV; a temporary name until it is whole."""
    part = path.with_suffix(".part")
    scipy.io.wavfile.write(part, rate, (sound * 32767).astype(np.int16))
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a MusicGen model: a folder or a hub id")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative", default=None, help="a text to stay away from; silence without it")
    parser.add_argument("--scales", default="1,3")
    parser.add_argument("--space", choices=("log", "prob"), default="log")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("music"))
    given = parser.parse_args()
    guides = [cp.Guide(scale=float(scale), space=given.space) for scale in given.scales.split(",")]

    from transformers import AutoModelForTextToWaveform, AutoProcessor

    processor = AutoProcessor.from_pretrained(given.model)
    model = AutoModelForTextToWaveform.from_pretrained(given.model).eval()

    def read(text: str) -> Any:
        return processor(text=[text], padding=True, return_tensors="pt")

    for guide in guides:
        negative = None if given.negative is None else read(given.negative)
        sound = write(model, read(given.prompt), negative, guide, seconds=given.seconds, seed=given.seed)
        path = given.out.with_name(f"{given.out.name}-{guide.scale:g}.wav")
        save(path, sound, model.config.audio_encoder.sampling_rate)
        line = f"{path}: {len(sound) / model.config.audio_encoder.sampling_rate:.1f} s"
        print(line + (f", channels differ by {stereo_difference(sound):.3f}" if sound.shape[1] == 2 else ""))


if __name__ == "__main__":
    main()
