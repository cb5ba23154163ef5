"""What a step reads: rows of tokens, each a function of the seed, the step and the row alone (so a resume is exact)."""

import random

import numpy as np

from counterpoint.train.config import TrainConfig
from counterpoint.train.corpus import Corpus
from counterpoint.train.headers import header
from counterpoint.train.tokenizer import BOS, EOS

LOOK_AHEAD = 96
LEAST_ROOM = 24


class Windows:
    """Draws windows from a corpus. A row is `<s>` header text `</s>`, again and again from one source until it is full."""

    def __init__(self, corpus: Corpus, config: TrainConfig) -> None:
        self._corpus, self._config = corpus, config
        encoding = corpus.tokenizer
        self._bos, self._eos = encoding.token_to_id(BOS), encoding.token_to_id(EOS)
        vocab = encoding.get_vocab()
        size = encoding.get_vocab_size()
        self._ends = np.zeros(size, dtype=bool)  # a sentence or a paragraph ends with this token
        self._breaks = np.zeros(size, dtype=bool)  # this token is newlines
        self._bare = np.arange(size)  # the same word without its leading space
        for piece, at in vocab.items():
            self._ends[at] = piece.rstrip("\"')âĢĿ").endswith((".", "!", "?")) or piece.startswith("Ċ")
            self._breaks[at] = piece.startswith("Ċ")
            if piece.startswith("Ġ") and piece[1:] in vocab:
                self._bare[at] = vocab[piece[1:]]
        early = np.array([s.share for s in config.source])
        late = np.array([s.late_share or s.share for s in config.source])
        self._shares = [np.cumsum(shares / shares.sum()) for shares in (early, late)]
        balances = (config.balance, config.schedule.late_balance)
        self._groups = [
            [
                self._group_table(index, b if each.balance is None else each.balance)
                for index, each in enumerate(config.source)
            ]
            for b in balances
        ]

    def _group_table(self, source: int, balance: float) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Of one source: (cumulative weight, its records, their cumulative lengths) for each group."""
        corpus, table, total = self._corpus, [], 0.0
        mine = (corpus.source == source) & ~corpus.held & (corpus.length > 0)
        for group in np.unique(corpus.group[mine]):
            records = np.flatnonzero(mine & (corpus.group == group))
            lengths = np.cumsum(corpus.length[records])
            total += float(lengths[-1]) ** balance
            table.append((total, records, lengths))
        return table

    def _draw_record(self, table: list[tuple[float, np.ndarray, np.ndarray]], rng: random.Random) -> int:
        """A record of one source's table: its group by size to the power `balance`, itself by its length."""
        at = rng.random() * table[-1][0]
        _, records, lengths = next((row for row in table if at < row[0]), table[-1])
        return int(
            records[np.searchsorted(lengths, rng.random() * lengths[-1], side="right").clip(max=len(records) - 1)]
        )

    def _start(self, ids: np.ndarray, room: int, rng: random.Random) -> int:
        """Where to begin: at the beginning of what fits, else there now and then, else at the start of a sentence."""
        if len(ids) <= room or rng.random() < 0.1:
            return 0
        at = rng.randrange(len(ids) - room // 2)
        ends = np.flatnonzero(self._ends[ids[at : at + LOOK_AHEAD]])
        start = at + int(ends[0]) + 1 if len(ends) else at
        return start + 1 if start < len(ids) and self._breaks[ids[start]] else start

    def document(self, record: int, room: int, rng: random.Random) -> np.ndarray:
        """`<s>` header text `</s>` of one record, cut at `room` tokens."""
        corpus = self._corpus
        source = self._config.source[corpus.source[record]]
        lead = header(corpus.conditions[record], source, self._config.header, rng)
        lead_ids = corpus.tokenizer.encode(lead, add_special_tokens=False).ids if lead else []
        ids = corpus.text_ids(record)
        start = self._start(ids, room - len(lead_ids) - 2, rng)
        text = ids[start : start + room].astype(np.int64)
        if start and len(text):
            text[0] = self._bare[text[0]]
        return np.concatenate([[self._bos], lead_ids, text, [self._eos]])[:room].astype(np.int64)

    def row(self, step: int, row: int, window: int) -> np.ndarray:
        """One row of window + 1 tokens [window + 1]: the inputs and, one to the right, the targets."""
        rng = random.Random(f"{self._config.seed}/{step}/{row}")
        late = self._config.schedule.is_late(step)
        shares = self._shares[late]
        source = int(np.searchsorted(shares, rng.random(), side="right").clip(max=len(shares) - 1))
        parts, room = [], window + 1
        while room > 0:
            piece = self.document(self._draw_record(self._groups[late][source], rng), max(room, LEAST_ROOM), rng)[:room]
            parts.append(piece)
            room -= len(piece)
        return np.concatenate(parts)

    def batch(self, step: int, rows: int, window: int) -> np.ndarray:
        """The rows of one step [rows, window + 1], int64."""
        return np.stack([self.row(step, row, window) for row in range(rows)])

    def validation(self, source: int, windows: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Held-out text without headers [windows, window + 1], and how many bytes each row's targets are [windows]."""
        corpus = self._corpus
        held = np.flatnonzero((corpus.source == source) & corpus.held & (corpus.length > 0))
        rng = random.Random(f"{self._config.seed}/validation/{source}")
        rows, sizes = [], []
        for _ in range(windows if len(held) else 0):
            ids = corpus.text_ids(int(rng.choice(held)))
            start = rng.randrange(max(1, len(ids) - window))
            ids = ids[start : start + window].astype(np.int64)
            filled = np.full(window + 1, -100, dtype=np.int64)
            filled[0], filled[1 : 1 + len(ids)] = self._bos, ids
            rows.append(filled)
            sizes.append(len(corpus.tokenizer.decode(ids.tolist()).encode()))
        return np.array(rows).reshape(-1, window + 1), np.array(sizes)
