"""The training loop: steps, validation, checkpoints, and at the end a model folder."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from counterpoint.errors import Failure, UsageError
from counterpoint.train import checkpoint, curve
from counterpoint.train.config import TrainConfig, read_config
from counterpoint.train.corpus import Corpus, open_corpus
from counterpoint.train.network import make_optimisers, new_model, sum_loss
from counterpoint.train.tokenizer import BOS, EOS, PAD
from counterpoint.train.windows import Windows


@dataclass(frozen=True, slots=True)
class TrainResult:
    """folder: the model. finished: False where `stop_after` ended it first. validation: bits per byte by file."""

    folder: Path
    steps: int
    tokens: int
    seconds: float
    validation: dict[str, float]
    finished: bool


class Run:
    """The state of one run: what a checkpoint holds, and how it moves by one step."""

    def __init__(self, config: TrainConfig, corpus: Corpus, device: str, compiled: bool) -> None:
        self.config, self.corpus, self.device = config, corpus, device
        self.windows = Windows(corpus, config)
        self.model = new_model(config.model, corpus.tokenizer, seed=config.seed).to(device)
        self.optimisers = make_optimisers(self.model, config.schedule)
        self._rates = [[g["lr"] for g in o.param_groups] for o in self.optimisers]
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.rows: list[dict] = []
        self._loss = torch.compile(sum_loss, dynamic=False) if compiled else sum_loss
        self._held = {}

    def state(self, fingerprint: str) -> dict:
        return {
            "fingerprint": fingerprint,
            "model": self.model.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "optimisers": [o.state_dict() for o in self.optimisers],
            "seconds": self.seconds,
            "rows": self.rows,
        }

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(kept)
        self.step, self.tokens, self.seconds, self.rows = (state[n] for n in ("step", "tokens", "seconds", "rows"))

    def advance(self) -> float:
        """One step; the training loss in nats a token."""
        plan = self.config.schedule
        window = plan.window_at(self.step)
        batch = torch.from_numpy(self.windows.batch(self.step, plan.batch_tokens // window, window)).to(self.device)
        total, targets = 0.0, batch.shape[0] * window
        for rows in batch.split(plan.micro_tokens // window):
            loss = self._loss(self.model, rows)
            (loss / targets).backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), plan.clip)
        for optimiser, rates in zip(self.optimisers, self._rates):
            for group, rate in zip(optimiser.param_groups, rates):
                group["lr"] = rate * plan.rate_at(self.step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += targets
        return total / targets

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Bits per byte on held-out text without a header, by file."""
        plan, bits = self.config.schedule, {}
        for index, source in enumerate(self.config.source):
            if index not in self._held:
                self._held[index] = self.windows.validation(index, plan.validate_windows, plan.window)
            rows, num_bytes = self._held[index]
            if len(rows) == 0:
                continue
            nats = sum(
                float(sum_loss(self.model, torch.from_numpy(rows[at : at + 8]).to(self.device)))
                for at in range(0, len(rows), 8)
            )
            bits[source.file] = nats / 0.6931471805599453 / float(num_bytes.sum())
        return bits


def export(model: transformers.PreTrainedModel, corpus: Corpus, folder: Path, card: dict) -> None:
    """A folder that transformers opens: bfloat16 safetensors, tokenizer.json, and `training.json` with the facts."""
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.config.use_cache = True
    copy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=corpus.tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=model.config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    checkpoint.replace_file(folder / "training.json", (json.dumps(card, indent=1) + "\n").encode())


def run(
    config_path: str | Path,
    *,
    out: str | Path,
    data: str | Path,
    resume: bool = True,
    device: str = "cpu",
    threads: int | None = None,
    compiled: bool = True,
    stop_after: int | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train the model that a config file describes; the model folder is `out/model`.

    data: the folder of `*.jsonl(.xz)`. resume: go on from `out/checkpoint.pt` where it is; False refuses if it is.
    device: "cpu" or "cuda". threads: CPU threads, all by default. compiled: use torch.compile. stop_after: end
    early, with a checkpoint, at this step. say: takes each line of news; by default a progress bar on stderr.
    Raises UsageError for a wrong config, data or folder, and Failure where the last checkpoint could not be written.
    """
    config, out, data = read_config(config_path), Path(out), Path(data)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda is asked for, but torch sees none; use cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    path, fingerprint = out / "checkpoint.pt", config.fingerprint(with_model=True)
    kept = checkpoint.read(path, fingerprint=fingerprint)
    if kept is not None and not resume:
        raise UsageError(f"{path} exists; resume from it, or choose another --out")
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=say is not None,
    )
    tell = say or progress.console.print
    with progress:
        corpus = open_corpus(config, data, out, say=tell)
        torch.manual_seed(config.seed)
        state = Run(config, corpus, device, compiled)
        if kept is not None:
            state.restore(kept)
            tell(f"resumed at step {state.step}")
        return _train(state, out, fingerprint, progress, tell, stop_after)


def _train(
    state: Run, out: Path, fingerprint: str, progress: Progress, tell: Callable[[str], None], stop_after: int | None
) -> TrainResult:
    plan = state.config.schedule
    last = min(plan.steps, stop_after if stop_after is not None else plan.steps)
    bar = progress.add_task("training", total=plan.steps, completed=state.step)
    saved_s = clock = time.monotonic()
    recent: list[float] = []
    while state.step < last:
        recent.append(state.advance())
        now = time.monotonic()
        state.seconds, clock = state.seconds + now - clock, now
        measured = state.step % plan.validate_every == 0 or state.step == last
        if measured:
            mean = sum(recent) / len(recent)
            recent = []
            state.rows.append(
                {
                    "step": state.step,
                    "tokens": state.tokens,
                    "seconds": state.seconds,
                    "train_nats": mean,
                    "validation": state.validate(),
                }
            )
            held = ", ".join(f"{n} {b:.3f}" for n, b in state.rows[-1]["validation"].items())
            tell(
                f"step {state.step}: {mean:.3f} nats a token; held out, bits a byte: {held or 'nothing held out'}; "
                f"{state.tokens / state.seconds:,.0f} tokens a second"
            )
        progress.update(bar, completed=state.step)
        if time.monotonic() - saved_s > plan.checkpoint_s or state.step == last:
            saved_s = time.monotonic()
            _save(state, out, fingerprint, tell, must=state.step == last)
    done = state.step >= plan.steps
    validation = state.rows[-1]["validation"] if state.rows else {}
    card = {
        "steps": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds),
        "device": state.device,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "bits_per_byte": validation,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "corpus": state.corpus.report,
        "config": asdict(state.config),
    }
    try:
        export(state.model, state.corpus, out / "model", card)
    except OSError as error:
        raise Failure(
            f"the model could not be written to {out / 'model'}: {error}; free some space and run again"
        ) from None
    return TrainResult(out / "model", state.step, state.tokens, state.seconds, validation, done)


def _save(state: Run, out: Path, fingerprint: str, tell: Callable[[str], None], *, must: bool) -> None:
    """A checkpoint and the curve. A full disk is told and survived, except where it is the last one (`must`)."""
    try:
        checkpoint.save(out / "checkpoint.pt", state.state(fingerprint))
        curve.write_table(state.rows, out / "loss-curve.csv")
        if state.rows and not curve.draw(state.rows, out / "loss-curve.png") and must:
            tell("no picture of the loss: pip install '.[train]'")
    except OSError as error:
        if must:
            raise Failure(f"checkpoint not written to {out}: {error.strerror}; free some space and run again") from None
        tell(f"checkpoint not written to {out}: {error.strerror}; training goes on, the one before it stays")
