"""What `scripts/worth.py` compares: ways to make a model keep an instruction, each with what it needs to be prepared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import counterpoint as cp
from counterpoint.distillation import Adapter, Dialogue, Training, Writing, distil
from counterpoint.distillation.answers import Writer
from counterpoint.distillation.own_prompts import write_prompts
from counterpoint.evaluate.answering import UNGUIDED
from counterpoint.evaluate.instructions import Instruction
from counterpoint.models.adapters import load_adapter
from counterpoint.models.fingerprint import fingerprint
from counterpoint.store import Store
from counterpoint.vectors.pairs import chat_pairs

TURNS = 3  # of the user's in a conversation to learn from


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to answer.

    Args:
        name: what the page calls it.
        model: what writes.
        key: tells its answers from others' in the store.
        guide: at scale 1 no further branch is read.
        rows: contexts that are read at each token.
        needs: what had to be made first, in words.
    """

    name: str
    model: cp.Model
    key: str
    guide: cp.Guide = UNGUIDED
    rows: int = 1
    needs: str = ""


def own_prompts(
    model: cp.Model, folder: Path, singles: int, talks: int, seed: int, say: Callable[[str], None]
) -> list[Dialogue]:
    """Questions that the model wrote itself: single ones, and conversations of `TURNS`."""
    store = Store(folder / "prompts.sqlite")
    writer = Writer(model, store, weights=fingerprint(model.hf), say=say)
    texts = write_prompts(model, writer, singles + talks * TURNS, is_chat=True, seed=seed, say=say)
    grouped = [texts[at : at + TURNS] for at in range(singles, len(texts), TURNS)]
    return [Dialogue((text,)) for text in texts[:singles]] + [Dialogue(tuple(turns)) for turns in grouped]


def distilled(
    model: cp.Model, prompts: Sequence[Dialogue], instruction: Instruction, guide: cp.Guide, *,
    folder: Path, max_tokens: int, epochs: int, keep: Sequence[str], seed: int, say: Callable[[str], None],
) -> Any:  # fmt: skip
    """The adapter of one instruction; goes on where a killed run was."""
    return distil(
        model,
        prompts,
        out=folder,
        chat=True,
        system=instruction.system,
        negative=instruction.opposite,
        guide=guide,
        rules=[f"instruction={instruction.name}"],
        keep=keep,
        adapter=Adapter(8),
        training=Training(epochs=epochs, rate=5e-4, measure_every=10, checkpoint_s=20),
        writing=Writing(3, sampling={"max_tokens": max_tokens}, held_out=0.1),
        seed=seed,
        say=say,
    )


def vector_of(model: cp.Model, prompts: Sequence[Dialogue], instruction: Instruction) -> cp.Vector:
    """The vector from the opposite instruction to the instruction, fitted on the prompts that the adapter learns from."""
    questions = [prompt.turns[0] for prompt in prompts]
    return cp.Vector.fit(model, chat_pairs(model, questions, system=instruction.system, negative=instruction.opposite))


def plausible(arms: Sequence[Arm], plausibility: float) -> list[Arm]:
    """Arms that read one context, with the guide's plausibility alone, which costs nothing either: at temperature 1 part
    of what guidance gains is that it leaves improbable tokens out. None where the guide has no plausibility."""
    guide = cp.Guide(scale=1.0, plausibility=plausibility)
    named = [(arm, f"{arm.name}, plausibility {plausibility:g} alone") for arm in arms if arm.rows == 1]
    return [dataclasses.replace(arm, name=name, guide=guide) for arm, name in named if plausibility]


def arms_of(
    model: cp.Model, guide: cp.Guide, adapter: Path, vector: cp.Vector, strengths: Sequence[float]
) -> list[Arm]:
    """All arms, the unguided one first. Loads the adapter into the model, where it is switched on for its arm alone."""
    weights = fingerprint(model.hf)
    load_adapter(model.hf, str(adapter), name="distilled")
    learnt = fingerprint(model.hf)
    plain = model.with_adapter(None)
    return [
        Arm("unguided", plain, weights),
        Arm("guided", plain, weights, guide, 2),
        Arm("distilled", model.with_adapter("distilled"), f"{learnt}/on", needs="an adapter, from guided answers"),
        *(
            Arm(f"vector, strength {strength:g}", plain.with_vector(vector, strength),
                f"{weights}/{vector.digest}/{strength}", needs="a vector, from pairs of prompts")
            for strength in strengths
        ),
    ]  # fmt: skip
