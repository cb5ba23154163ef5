"""A training run as values, read from a TOML file. Knows nothing of files of text, tensors or time."""

import hashlib
import json
import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

from counterpoint.errors import UsageError


def _check(ok: bool, name: str, value: object, rule: str) -> None:
    if not ok:
        raise UsageError(f"training config: `{name}` {rule}, but is {value!r}")


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One file of records and how its conditions become a header.

    fields: condition -> template, in the order of the header, as {"genre": "Genre: {}."}.
    required: conditions that are never dropped (a question, a word to define); they stand last.
    before: a condition put before the header as a paragraph of its own (a passage to answer from), or "".
    before_drop: how often that paragraph is left out, in [0, 1].
    joint: what stands between header and text.
    lower: conditions whose values are written in lower case.
    vague: values too general to name beside others ("Fiction").
    held_out_share: share of the records kept out of training, chosen by a hash of their text, in [0, 1).
    only: `name=value` of a top-level field; other records are ignored ("split=train"), or "".
    late_share: its share over the last steps (`schedule.late`); 0 for the same as before.
    balance: for this file at all steps, in place of the file-wide `balance` and `late_balance`; in [0, 1].
    """

    file: str
    share: float
    fields: dict[str, str]
    required: tuple[str, ...] = ()
    before: str = ""
    before_drop: float = 0.0
    joint: str = "\n\n"
    lower: tuple[str, ...] = ()
    vague: tuple[str, ...] = ()
    held_out_share: float = 0.0
    only: str = ""
    late_share: float = 0.0
    balance: float | None = None

    def __post_init__(self) -> None:
        _check(self.share > 0, f"source {self.file}: share", self.share, "has to be above 0")
        _check(self.late_share >= 0, f"source {self.file}: late_share", self.late_share, "has to be 0 or more")
        _check(
            self.balance is None or isinstance(self.balance, int | float) and 0 <= self.balance <= 1,
            f"source {self.file}: balance",
            self.balance,
            "has to be in [0, 1]",
        )
        _check(0 <= self.before_drop <= 1, f"source {self.file}: before_drop", self.before_drop, "has to be in [0, 1]")
        _check(
            0 <= self.held_out_share < 1,
            f"source {self.file}: held_out_share",
            self.held_out_share,
            "has to be in [0, 1)",
        )
        for name, template in self.fields.items():
            _check(template.count("{}") == 1, f"source {self.file}: fields.{name}", template, "needs one {}")
        for name in (*self.required, *self.lower):
            _check(name in self.fields, f"source {self.file}: required, lower", name, "has to name one of the fields")


@dataclass(frozen=True, slots=True)
class HeaderConfig:
    """How often conditions are left out, so that none, one and several are all known to the model; in [0, 1]."""

    drop_all: float = 0.18
    drop_field: float = 0.3
    shuffle: float = 0.2

    def __post_init__(self) -> None:
        for name in ("drop_all", "drop_field", "shuffle"):
            _check(0 <= getattr(self, name) <= 1, f"header.{name}", getattr(self, name), "has to be in [0, 1]")


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Byte-level BPE. sample_bytes: how much text it is trained on."""

    vocab: int = 8192
    sample_bytes: int = 40_000_000

    def __post_init__(self) -> None:
        _check(260 <= self.vocab <= 65_536, "tokenizer.vocab", self.vocab, "has to be in [260, 65536]")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A Llama with tied embeddings. positions: the longest context that the model folder declares, in tokens."""

    width: int = 256
    layers: int = 6
    heads: int = 4
    inner: int = 704
    positions: int = 1024

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "inner", "positions"):
            _check(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "has to be at least 1")
        _check(
            self.width % (2 * self.heads) == 0,
            "model.width",
            self.width,
            f"has to be a multiple of 2 * {self.heads} heads",
        )


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """Steps and rates. These and `late_share` may be changed between a kill and a resume; everything else may not.

    Warm-up, then constant, then linear to 0 over the last `decay` of the steps. The last `long` of the steps read
    windows of `long_window` tokens instead of `window`. The last `late` of the steps read the files by their
    `late_share`, and their groups by `late_balance` instead of `balance`. batch_tokens: tokens a step; micro_tokens: tokens a forward.
    rate: AdamW's, for embeddings and norms; matrix_rate: Muon's, for the matrices between them.
    """

    steps: int
    batch_tokens: int = 8192
    micro_tokens: int = 8192
    window: int = 256
    long_window: int = 512
    long: float = 0.15
    late: float = 0.0
    late_balance: float = 0.7
    warmup: int = 100
    decay: float = 0.5
    rate: float = 3e-3
    matrix_rate: float = 5e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    validate_every: int = 100
    validate_windows: int = 16
    checkpoint_s: float = 150.0

    def __post_init__(self) -> None:
        for name in ("steps", "window", "long_window", "validate_every", "validate_windows"):
            _check(getattr(self, name) >= 1, f"schedule.{name}", getattr(self, name), "has to be at least 1")
        for name in ("long", "decay", "late", "late_balance"):
            _check(0 <= getattr(self, name) <= 1, f"schedule.{name}", getattr(self, name), "has to be in [0, 1]")
        for name in ("window", "long_window"):
            _check(
                self.micro_tokens % getattr(self, name) == 0,
                "schedule.micro_tokens",
                self.micro_tokens,
                f"has to be a multiple of {name}",
            )
        _check(
            self.batch_tokens % self.micro_tokens == 0,
            "schedule.batch_tokens",
            self.batch_tokens,
            "has to be a multiple of micro_tokens",
        )

    def window_at(self, step: int) -> int:
        """Tokens a window at this step (from 0)."""
        return self.long_window if step >= round(self.steps * (1 - self.long)) else self.window

    def is_late(self, step: int) -> bool:
        """Whether this step (from 0) is one of the last `late` of the steps."""
        return step >= round(self.steps * (1 - self.late))

    def rate_at(self, step: int) -> float:
        """The learning rate's multiplier at this step (from 0), in [0, 1]."""
        up = min(1.0, (step + 1) / max(1, self.warmup))
        down = (self.steps - step) / max(1.0, self.steps * self.decay)
        return max(0.0, min(up, down, 1.0))


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A whole run. held_out: records whose `source` is one of these are never trained on.

    balance: within a file, groups of one `source` are drawn in proportion to their size to this power, in [0, 1].
    """

    seed: int
    source: tuple[SourceConfig, ...]
    schedule: ScheduleConfig
    header: HeaderConfig = field(default_factory=HeaderConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    held_out: tuple[str, ...] = ()
    balance: float = 0.7

    def __post_init__(self) -> None:
        _check(len(self.source) > 0, "source", self.source, "has to name at least one file")
        _check(0 <= self.balance <= 1, "balance", self.balance, "has to be in [0, 1]")
        longest = max(self.schedule.window, self.schedule.long_window)
        _check(longest <= self.model.positions, "schedule.window", longest, "has to fit model.positions")

    def fingerprint(self, *, with_model: bool) -> str:
        """A hash of all that must not change: under the token cache, and (with_model) under a checkpoint."""
        kept = asdict(self)
        del kept["schedule"]
        for source in kept["source"]:
            del source["late_share"]
        if not with_model:
            for name in ("model", "seed", "header", "balance"):
                del kept[name]
            for source in kept["source"]:
                del source["share"], source["balance"]
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _build(cls: type, table: object, where: str) -> object:
    """The dataclass `cls` from a TOML table; unknown and missing names are errors."""
    _check(isinstance(table, dict), where, table, "has to be a table")
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise UsageError(f"training config: unknown `{unknown[0]}` in {where}; known: {', '.join(known)}")
    missing = [n for n, f in known.items() if n not in table and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise UsageError(f"training config: {where} lacks `{missing[0]}`")
    values = {}
    for name, value in table.items():
        expected = known[name].type
        if expected is float and type(value) is int:
            value = float(value)
        if isinstance(expected, type) and expected in (int, float, str):
            _check(type(value) is expected, f"{where}.{name}", value, f"has to be of type {expected.__name__}")
        values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def read_config(path: str | Path) -> TrainConfig:
    """The training run that a TOML file describes. Raises UsageError with the name and value that is wrong."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"training config {path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"training config {path} is not TOML: {error}") from None
    rooms = {"schedule": ScheduleConfig, "header": HeaderConfig, "tokenizer": TokenizerConfig, "model": ModelConfig}
    for name, cls in rooms.items():
        if name in table:
            table[name] = _build(cls, table[name], name)
    if "source" in table:
        _check(isinstance(table["source"], list), "source", table["source"], "has to be an array of tables")
        table["source"] = tuple(_build(SourceConfig, each, "source") for each in table["source"])
    return _build(TrainConfig, table, "the file")
