"""What a constraint costs: masks at a vocabulary of 151,936, and the steps that forced tokens save."""

from __future__ import annotations

import collections
import re
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from constraints_schemas import SCHEMAS, models
from tokenizers import Tokenizer, decoders
from tokenizers import models as tokenizer_models
from tokenizers import pre_tokenizers as splits
from transformers import PreTrainedTokenizerFast

import counterpoint as cp
from counterpoint import formulas
from counterpoint.constraints import Json
from counterpoint.constraints.masks import begin, unpacked
from counterpoint.engine import Engine, prepare

SIZE = 151_936
TIMED = ["an object", "nested objects", "one of two", "a tool's arguments", "a list of objects", "a tree"]


def measure_cost(*, seed: int, say: Any) -> dict[str, Any]:
    """Milliseconds a token for masks, and steps with and without forced tokens."""
    record = {"vocabulary": SIZE, "masks": _masks(seed), "steps": _steps(seed)}
    say(f"masks {record['masks']}; steps {record['steps']}")
    return record


def wide_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of `SIZE` tokens: bytes, and the words of the bundled documentation with all their beginnings
    and endings, then numbered ones."""
    alphabet = sorted(splits.ByteLevel.alphabet())
    vocab = {"<end>": 0, **{symbol: at + 1 for at, symbol in enumerate(alphabet)}}
    merges: list[tuple[str, str]] = []
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(Path(cp.__file__).parent.rglob("*.py")))
    words = [word for word, _ in collections.Counter(re.findall(r" ?[A-Za-z]+", text)).most_common()]
    number = 0
    while len(vocab) < SIZE:
        if words:
            word = words.pop(0).replace(" ", "Ġ")
        else:  # made up, in the alphabet of words
            number += 1
            word = "Ġ" + "".join(chr(97 + (number // 26**place) % 26) for place in range(5))
        for end in range(2, len(word) + 1):
            if len(vocab) < SIZE and word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append((word[: end - 1], word[end - 1]))
    inner = Tokenizer(tokenizer_models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer, inner.decoder = splits.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def _masks(seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    model = SimpleNamespace(tokenizer=wide_tokenizer(), vocab_size=SIZE, eos_ids=frozenset({0}), name="wide")
    compiled = {name: Json(SCHEMAS[name]).compile(model) for name in TIMED}
    ready = time.perf_counter() - began
    compile_ms = []
    for name, schema in SCHEMAS.items():
        if name not in TIMED:
            at = time.perf_counter()
            Json(schema).compile(model)
            compile_ms.append(1e3 * (time.perf_counter() - at))
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(16, 2, SIZE, generator=source)
    times = {}
    for count in (1, 16):
        spent, used = [], []
        for _ in range(3):
            states = [compiled[TIMED[at % len(TIMED)]].start() for at in range(count)]
            for _ in range(30):
                at, busy = time.perf_counter(), time.process_time()
                begin(states)
                left = unpacked(states, SIZE, logits)
                spent.append(1e3 * (time.perf_counter() - at) / count)
                used.append(1e3 * (time.process_time() - busy) / count)
                scores = formulas.conditioned(logits[:count, :1], left)[:, 0]
                chosen = torch.multinomial(scores.exp(), 1, generator=source).flatten().tolist()
                for number, (state, token_id) in enumerate(zip(states, chosen)):
                    state.accept(token_id)
                    if state.is_over:
                        states[number] = compiled[TIMED[number % len(TIMED)]].start()
        times[str(count)] = {
            "median": statistics.median(spent),
            "best half": statistics.fmean(sorted(spent)[: len(spent) // 2]),
            "processor": statistics.median(used),
        }
    return {"ms_a_token": times, "ready_s": ready, "compile_ms": statistics.median(compile_ms)}


def _steps(seed: int) -> dict[str, Any]:
    keys = [
        "number of " + word for word in ("apples", "pears", "plums", "cherries", "grapes", "figs", "dates", "limes")
    ]
    schema = {
        "type": "object",
        "properties": {key: {"type": "integer", "minimum": 0, "maximum": 99} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }
    found = {}
    for name, model in models().items():
        for whitespace in (8, 0):
            counts, tokens = [], []
            for processors in ((), (_nothing,)):
                engine, steps = Engine(model), 0
                engine.add(
                    prepare(
                        model, "The market has", negative="The house has", guide=cp.Guide(scale=2.0), seed=seed,
                        constraint=Json(schema, whitespace=whitespace), max_tokens=600, processors=processors,
                    )
                )  # fmt: skip
                while not engine.is_idle:
                    tokens += [p.completion.token_ids for p in engine.step() if p.completion is not None]
                    steps += 1
                counts.append(steps)
            found[f"{name}, white space up to {whitespace}"] = {
                "steps": counts[0],
                "plain": counts[1],
                "tokens": len(tokens[0]),
                "same": tokens[0] == tokens[1],
            }
    return found


def _nothing(prompt_ids: Any, output_ids: Any, scores: Any) -> Any:
    """A processor that looks at every step, so that no token is appended without one."""
    return scores
