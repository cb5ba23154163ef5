"""From files of records to tokens on disk: held out, checked for leaks, tokenised once and kept."""

import json
import os
import random
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from counterpoint.errors import UsageError
from counterpoint.train.config import TrainConfig
from counterpoint.train.records import Broken, Record, find_file, read_records
from counterpoint.train.tokenizer import train_tokenizer

SHINGLE_WORDS = 13
LEAK_SHARE = 0.05
_WORD = re.compile(r"[a-z0-9']+")


def shingles(text: str, *, words: int = SHINGLE_WORDS) -> np.ndarray:
    """Hashes of all runs of `words` words [number of runs] uint64; of a shorter text, one of the whole."""
    hashes = np.array([zlib.crc32(w.encode()) for w in _WORD.findall(text.lower())], dtype=np.uint64)
    if len(hashes) == 0:
        return hashes
    size = min(words, len(hashes))
    count = len(hashes) - size + 1
    runs = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        runs = runs * np.uint64(6364136223846793005) + hashes[offset : offset + count] + np.uint64(1442695040888963407)
    return runs ^ (runs >> np.uint64(29))


def _thinned(runs: np.ndarray) -> np.ndarray:
    """Of more than 2,000 hashes every 16th, chosen by value: a book's share is known well enough from those."""
    return runs[runs % np.uint64(16) == 0] if len(runs) > 2000 else runs


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tokens of all records, one after the other, and what is known of each record (arrays of one entry a record).

    source: index into the config's sources. group: index into `groups`. held: kept out of training.
    report: counts for the model card (records, broken, leaked, bytes).
    """

    tokens: np.ndarray
    start: np.ndarray
    length: np.ndarray
    source: np.ndarray
    group: np.ndarray
    held: np.ndarray
    groups: list[str]
    conditions: list[dict[str, tuple[str, ...]]]
    tokenizer: Tokenizer
    report: dict

    def text(self, record: int) -> str:
        """One record's text, as it was after normalising."""
        return self.tokenizer.decode(self.text_ids(record).tolist()).strip(" ")

    def text_ids(self, record: int) -> np.ndarray:
        """The tokens of one record's text, uint16."""
        return self.tokens[self.start[record] : self.start[record] + self.length[record]]


def is_held_out(record: Record, share: float, names: frozenset[str]) -> bool:
    """Whether a record is kept out of training: its group is one of `names`, or its text's hash falls into `share`."""
    return record.group in names or zlib.crc32(record.text.encode()) % 10_000 < share * 10_000


def _tokenizer_sample(records: list[Record], sample_bytes: int) -> Iterable[str]:
    # Long books are cut, so that no one of them fills the sample.
    order = list(range(len(records)))
    random.Random(1).shuffle(order)
    left = sample_bytes
    for at in order:
        text = records[at].text[:300_000]
        yield text
        left -= len(text)
        if left <= 0:
            return


def _without_leaks(records: list[Record], held: np.ndarray) -> np.ndarray:
    """Which records may stay: all but training records that share text with a held-out one."""
    seen = [shingles(r.text) for r, out in zip(records, held) if out]
    if not seen:
        return np.ones(len(records), dtype=bool)
    known = np.unique(np.concatenate(seen))
    keep = np.ones(len(records), dtype=bool)
    for at, record in enumerate(records):
        if held[at]:
            continue
        runs = _thinned(shingles(record.text))
        places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        keep[at] = len(runs) == 0 or np.mean(known[places] == runs) <= LEAK_SHARE
    return keep


def build(config: TrainConfig, data: Path, cache: Path, *, say: Callable[[str], None]) -> Corpus:
    """Read, split, check, tokenise and write the cache. Raises UsageError where no record can be used."""
    records: list[Record] = []
    source_of: list[int] = []
    held: list[bool] = []
    report: dict = {"files": {}}
    for index, source in enumerate(config.source):
        path, broken, before = find_file(data, source.file), Broken(), len(records)
        for record in read_records(path, only=source.only, broken=broken):
            records.append(record)
            source_of.append(index)
            held.append(is_held_out(record, source.held_out_share, frozenset(config.held_out)))
        report["files"][source.file] = {"records": len(records) - before, "broken": broken.count}
        say(
            f"{path.name}: {len(records) - before} records"
            + (f", {broken.count} broken ones skipped (first: {'; '.join(broken.first)})" if broken.count else "")
        )
    held_array = np.array(held, dtype=bool)
    if not records or held_array.all():
        raise UsageError(f"no record to train on in {data}: {len(records)} read, {sum(held)} held out")
    keep = _without_leaks(records, held_array)
    for index, source in enumerate(config.source):
        mine = np.array(source_of) == index
        report["files"][source.file] |= {
            "held_out": int((held_array & mine).sum()),
            "leaked": int((~keep & mine).sum()),
        }
    say(
        f"{int(held_array.sum())} records held out; {int((~keep).sum())} training records dropped that share their text"
    )
    records = [r for r, ok in zip(records, keep) if ok]
    source_array, held_array = np.array(source_of, dtype=np.int16)[keep], held_array[keep]

    say(f"training a tokenizer of {config.tokenizer.vocab} entries")
    trainable = [r for r, out in zip(records, held_array) if not out]
    tokenizer = train_tokenizer(
        _tokenizer_sample(trainable, config.tokenizer.sample_bytes), vocab=config.tokenizer.vocab
    )
    say("tokenising")
    ids, num_bytes = [], np.zeros(len(records), dtype=np.int64)
    space = [" " if source.joint.endswith(" ") else "" for source in config.source]
    for at in range(0, len(records), 256):
        block = records[at : at + 256]
        texts = [space[source_array[at + i]] + r.text for i, r in enumerate(block)]
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids.extend(np.array(e.ids, dtype=np.uint16) for e in encoded)
        num_bytes[at : at + len(block)] = [len(r.text.encode()) for r in block]
    length = np.array([len(i) for i in ids], dtype=np.int64)
    for index, source in enumerate(config.source):
        mine = (source_array == index) & ~held_array
        report["files"][source.file] |= {"bytes": int(num_bytes[mine].sum()), "tokens": int(length[mine].sum())}
    groups = sorted({r.group for r in records})
    place = {name: at for at, name in enumerate(groups)}
    index = {
        "start": np.concatenate([[0], np.cumsum(length)[:-1]]),
        "length": length,
        "source": source_array,
        "group": np.array([place[r.group] for r in records], dtype=np.int32),
        "held": held_array,
    }
    _write(cache, np.concatenate(ids), index, [groups, [r.conditions for r in records], report], tokenizer)
    return load(cache)


def _write(cache: Path, tokens: np.ndarray, index: dict, rest: list, tokenizer: Tokenizer) -> None:
    """The cache's files; `done` is written last, so a cache cut short is never read."""
    cache.mkdir(parents=True, exist_ok=True)
    tokens.tofile(cache / "tokens.u16")
    np.savez(cache / "index.npz", **index)
    (cache / "rest.json").write_text(json.dumps(rest), encoding="utf-8")
    tokenizer.save(str(cache / "tokenizer.json"))
    (cache / "done").write_text(str(len(tokens)))
    os.sync()


def load(cache: Path) -> Corpus:
    """The corpus of a finished cache."""
    index = np.load(cache / "index.npz")
    groups, conditions, report = json.loads((cache / "rest.json").read_text(encoding="utf-8"))
    return Corpus(
        np.memmap(cache / "tokens.u16", dtype=np.uint16, mode="r"),
        index["start"],
        index["length"],
        index["source"],
        index["group"],
        index["held"],
        groups,
        [{n: tuple(v) for n, v in c.items()} for c in conditions],
        Tokenizer.from_file(str(cache / "tokenizer.json")),
        report,
    )


def open_corpus(config: TrainConfig, data: Path, out: Path, *, say: Callable[[str], None]) -> Corpus:
    """The corpus of this config: from the cache under `out` where it is finished, else built."""
    cache = out / f"corpus-{config.fingerprint(with_model=False)}"
    if (cache / "done").is_file():
        return load(cache)
    return build(config, data, cache, say=say)
