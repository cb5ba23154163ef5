"""Train a small vision-language model on drawn pictures, in LLaVA's layout: a small ViT, a connector, a language model.

    scripts/train_vision.py OUT [--looks N] [--steps N] [--size PIXELS] [--seed N]

First the ViT learns by itself what is drawn and where (from the language model's loss alone it learns nothing in an hour: 2,500
steps ended at chance). Then all of it learns to answer questions in the bundled tokenizer's tokens. For measuring guidance;
it is not shipped.
A killed run goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from counterpoint.evaluate.drawn import ACROSS, COLOURS, DOWN, SHAPES, Drawn, drawn
from counterpoint.evaluate.where import QUESTIONS
from counterpoint.models.loading import BUNDLED

BATCH, RATE, WARMUP = 24, 1e-3, 100
IMAGE = "<image>"
#: each picture and each text on a line of its own, as it is trained
TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}\n{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}<image>\n{% else %}{{ p['text'] }}\n{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def build(size: int) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    text = {
        "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 344,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256,
        "tie_word_embeddings": True, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "image_size": size, "patch_size": size // 6, "projection_dim": 96,
    }  # fmt: skip
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1, vision_feature_select_strategy="default", image_seq_length=36,
    )  # fmt: skip
    sides = {"height": size, "width": size}
    images = CLIPImageProcessorPil(size=sides, do_center_crop=False)
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=size // 6, vision_feature_select_strategy="default",
        image_token=IMAGE, num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def batch(processor: LlavaProcessor, shapes: list[Drawn], size: int, chance: random.Random) -> dict[str, torch.Tensor]:
    """One question of each picture with its answer; the loss is on the answer alone."""
    tokenizer, rows = processor.tokenizer, []
    for shape in shapes:
        question = chance.choice(QUESTIONS)
        prompt = processor(text=[f"{IMAGE}\n{question.of(shape)}\n"], images=[shape.picture(size)], return_tensors="pt")
        answer = tokenizer(question.right(shape), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((prompt["input_ids"][0].tolist(), answer, prompt["pixel_values"]))
    width = max(len(ids) + len(answer) for ids, answer, _ in rows)
    pad = tokenizer.pad_token_id
    filled = [ids + answer + [pad] * (width - len(ids) - len(answer)) for ids, answer, _ in rows]
    labels = [[-100] * len(ids) + answer + [-100] * (width - len(ids) - len(answer)) for ids, answer, _ in rows]
    ids = torch.tensor(filled)
    return {
        "input_ids": ids,
        "attention_mask": (ids != pad).long(),
        "labels": torch.tensor(labels),
        "pixel_values": torch.cat([pixels for *_, pixels in rows]),
    }


def look(model: LlavaForConditionalGeneration, processor: LlavaProcessor, steps: int, size: int, seed: int) -> None:
    """Every patch learns to tell the shape, its colour and its place, as a tower that was trained on pictures would."""
    tower = model.model.vision_tower
    kinds = (SHAPES, tuple(COLOURS), ACROSS, DOWN)
    head = torch.nn.Linear(tower.config.hidden_size, sum(map(len, kinds)))
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=RATE, weight_decay=0.01)
    for step in range(steps):
        shapes = list(drawn(4 * BATCH, seed=seed * 7_000_003 + step))
        pixels = processor.image_processor([s.picture(size) for s in shapes], return_tensors="pt")["pixel_values"]
        told = [(s.shape, s.colour, s.across, s.down) for s in shapes]
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, (steps - step) / (0.5 * steps))
        logits = head(tower(pixels).last_hidden_state[:, 1:]).split([len(kind) for kind in kinds], dim=-1)
        loss = torch.zeros(())
        for kind, part, right in zip(kinds, logits, zip(*told)):
            target = torch.tensor([kind.index(one) for one in right])
            loss = loss + torch.nn.functional.cross_entropy(
                part.transpose(1, 2), target[:, None].expand(part.shape[:2])
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"looking, step {step + 1} of {steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)


def train(out: Path, *, looks: int, steps: int, size: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, processor = build(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    kept, begin = out / "checkpoint.pt", 0
    out.mkdir(parents=True, exist_ok=True)
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["step"]
    else:
        look(model, processor, looks, size, seed)
    began, losses = time.perf_counter(), []
    for step in range(begin, steps):
        chance = random.Random(seed * 1_000_003 + step)
        shapes = list(drawn(9 * BATCH, seed=chance.randrange(2**31)))
        rows = batch(processor, chance.sample(shapes, BATCH), size, chance)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, (steps - step) / (0.5 * steps))
        loss = model(**rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1} of {steps}: loss {sum(losses[-100:]) / len(losses[-100:]):.3f}",
                file=sys.stderr,
                flush=True,
            )
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, kept.with_suffix(".new"))
            os.replace(kept.with_suffix(".new"), kept)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    record = {
        "looks": looks,
        "steps": steps,
        "size": size,
        "seed": seed,
        "batch": BATCH,
        "seconds": round(time.perf_counter() - began),
    }
    (out / "training.json").write_text(json.dumps({**record, "parameters": model.num_parameters()}, indent=1))
    kept.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--looks", type=int, default=1200, help="steps of the ViT by itself")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    train(given.out, looks=given.looks, steps=given.steps, size=given.size, seed=given.seed)


if __name__ == "__main__":
    main()
