"""An adapter trained on one author: amplified and undone, as an author classifier sees it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from evidence_data import _pieces
from peft import LoraConfig

import counterpoint as cp
from counterpoint.contexts import against_adapter
from counterpoint.evaluate.intervals import difference, interval
from counterpoint.evaluate.judges import Labelled, train_judge
from counterpoint.train.records import Broken, find_file, read_records

WINDOW, BATCH = 256, 4
SCALE = 3.0


def measure_adapter(
    model: cp.Model, corpus: Path, *, author: str, steps: int, texts: int, seed: int, say: Any
) -> dict[str, Any]:
    """Train a LoRA on half of an author's works, a judge on the other half against other authors, and write.

    The judge never saw a work that the adapter was trained on.
    """
    rng = random.Random(seed)
    works: dict[str, str] = {}
    others: dict[str, str] = {}
    for record in read_records(find_file(corpus, "se"), only="", broken=Broken()):
        place = works if record.conditions.get("author") == (author,) else others
        place[record.group] = place.get(record.group, "") + record.text
    names = sorted(works)
    learnt, judged = names[: len(names) // 2], names[len(names) // 2 :]
    say(f"{author}: the adapter learns {', '.join(learnt)}; the judge {', '.join(judged)}")
    examples = [Labelled(piece, "author", name) for name in judged for piece in _some(works[name], 300, rng)]
    compared = rng.sample(sorted(others), 24)
    examples += [Labelled(piece, "other", name) for name in compared for piece in _some(others[name], 40, rng)]
    judge = train_judge("author", examples, seed=seed)
    say(f"judge {judge.accuracy:.3f}")
    plain_bytes = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    _train(model, [works[name] for name in learnt], steps, seed, say)
    whole_bytes = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    plain = model.with_adapter(None)
    prompt = [model.bos_id]
    guide = cp.Guide(scale=SCALE, plausibility=0.02)
    arms = {
        "adapter off": (plain, prompt, None),
        "adapter on": (model, prompt, None),
        "amplified: on against off, scale 3": (model, against_adapter(prompt, model), guide),
        "undone: off against on, scale 3": (plain, against_adapter(prompt, plain, adapter="author"), guide),
    }
    scores = {}
    for name, (reads, built, chosen) in arms.items():
        done = cp.generate(reads, built, guide=chosen, max_tokens=64, n=texts, seed=seed, ignore_eos=True)
        scores[name] = judge.agrees([completion.text for completion in done], "author")
        say(f"{name}: {sum(scores[name]) / texts:.3f}")
    off = scores["adapter off"]
    rows = [
        {"arm": name, "share": interval(found, seed=seed), "over adapter off": difference(found, off, seed=seed)}
        for name, found in scores.items()
    ]
    return {
        "author": author, "judge accuracy": judge.accuracy, "steps": steps, "texts": texts, "rows": rows,
        "model bytes": plain_bytes, "adapter bytes": whole_bytes - plain_bytes,
    }  # fmt: skip


def _some(text: str, most: int, rng: random.Random) -> list[str]:
    pieces = _pieces(text)
    return rng.sample(pieces, min(most, len(pieces)))


def _train(model: cp.Model, texts: list[str], steps: int, seed: int, say: Any) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    hf = model.hf
    hf.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"), "author")
    ids = [torch.tensor(model.encode(text, special_tokens=False)) for text in texts]
    optimizer = torch.optim.AdamW([p for p in hf.parameters() if p.requires_grad], lr=2e-3)
    hf.train()
    for step in range(steps):
        batch = []
        for _ in range(BATCH):
            work = rng.choices(ids, weights=[len(one) for one in ids])[0]
            at = rng.randrange(len(work) - WINDOW)
            batch.append(torch.cat([torch.tensor([model.bos_id]), work[at : at + WINDOW]]))
        rows = torch.stack(batch)
        loss = hf(input_ids=rows, labels=rows).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 25 == 0 or step == steps - 1:
            say(f"adapter step {step}: loss {loss.item():.3f}")
    hf.eval()
