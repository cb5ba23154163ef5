"""From a guide and contexts to an adapter: the whole of a run, which goes on where a killed one was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from counterpoint.distillation import card
from counterpoint.distillation.answers import Example, Writer, facts_of, request_of, uncompiled, write_examples
from counterpoint.distillation.config import Adapter, Training, Writing, plain
from counterpoint.distillation.dialogues import Dialogue, as_prompt, split
from counterpoint.distillation.folders import CHECKPOINT, base_of, claim, mark_of, save_model
from counterpoint.distillation.gains import Gains, perplexity, shares, text_to_keep
from counterpoint.distillation.own_prompts import write_prompts
from counterpoint.distillation.reading import Contexts
from counterpoint.distillation.rules import Rule, read_rule
from counterpoint.distillation.student import Student, check_trainable
from counterpoint.distillation.training import Lessons, train
from counterpoint.errors import GuideError, PromptError, UsageError
from counterpoint.guide import Branch, Guide
from counterpoint.models.adapters import AdapterSwitch
from counterpoint.models.loading import as_model
from counterpoint.models.model import Model
from counterpoint.store import Store, key_of

FEWEST = 8  # answers to learn from


@dataclass(frozen=True, slots=True)
class Distilled:
    """What a run gave.

    Args:
        adapter: the folder of the adapter, as peft has it, with a card.
        base: what its config names as the model below it.
        merged: a plain model folder with the adapter added; None where none was asked for.
        gains: measured on what was held out.
        answers, steps, tokens: learnt from.
    """

    adapter: Path
    base: str
    merged: Path | None
    gains: Gains
    answers: int
    steps: int
    tokens: int


def distil(
    model: Model | str,
    prompts: Iterable[Any] = (),
    *,
    out: str | Path,
    guide: Guide | None = None,
    negative: Any = None,
    branches: Sequence[Branch] | None = None,
    chat: bool = False,
    system: str | None = None,
    student: Any = None,
    ghost: bool = True,
    written: int = 0,
    rules: Sequence[Rule | str | Callable[[str, bool], bool]] = (),
    keep: Sequence[str] = (),
    adapter: Adapter | None = None,
    training: Training | None = None,
    writing: Writing | None = None,
    seed: int = 0,
    merge: bool = False,
    save_base: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> Distilled:
    """Make a guide and contexts into a LoRA adapter, whose model then writes alone as guidance wrote.

    Guided answers are written to the prompts, the best of several is kept, and an adapter learns, by default, the guided
    distribution at each of their tokens: the mean of KL(guided || student). The branches are read by the model without
    the adapter. The model is left as it was. The same call goes on from what a killed one left in `out`, to the same
    adapter, bit for bit (on the CPU, with the same versions and number of threads).

    Args:
        model: what `counterpoint.load` gave, or a name for it.
        prompts: texts, token ids or built prompts, as `counterpoint.generate` takes them; with `chat` what a user says: a
            text, a list of texts (turn by turn, each answered by the guided model), messages, or a `Conversation`.
        out: a folder; the adapter is `out/adapter`.
        guide, negative, branches: as in `counterpoint.generate`; with `chat` as in `contexts.chat`.
        chat, system, student, ghost: see `Contexts`.
        written: so many further prompts the model writes itself.
        rules: what an answer must keep to be learnt from: a `Rule`, its text form (`read_rule`), or a function
            (text, whether the model ended it) -> bool.
        keep: ordinary texts on which the adapter shall change nothing: the student learns there what the model
            predicted before.
        adapter, training, writing: the shape of the LoRA, how it learns, how answers are written.
        seed: of prompts, answers, the adapter's first values and the order.
        merge: write `out/merged` too, a plain model folder.
        save_base: write the model itself to `out/base`, which the adapter then names as its base. None does so where the
            model is no folder of transformers and no hub id, as one from a GGUF file.
        say: takes each line of news; None shows a bar on standard error.

    Raises:
        UsageError: an argument is wrong, there are too few prompts or too few good answers, the guide can do nothing, or
            `out` holds another run.
    """
    adapter, training, writing = adapter or Adapter(), training or Training(), writing or Writing()
    read = [one if isinstance(one, Rule) else _rule(one) for one in rules]
    contexts = Contexts(guide, negative, branches, chat, system, student, ghost)
    if isinstance(prompts, str):
        raise PromptError("prompts is one text; give a list of texts", param="prompts")
    given = [as_prompt(one) for one in prompts]
    if isinstance(written, bool) or not isinstance(written, int) or written < 0:
        raise UsageError(f"written is {written!r}; use a whole number, 0 or more", param="written")
    if not given and not written:
        raise PromptError("there are no prompts; give some, or say how many the model shall write", param="prompts")
    if len(given) + written < FEWEST:
        raise PromptError(f"the number of prompts is {len(given) + written}; give {FEWEST} or more", param="prompts")
    model = as_model(model)
    check_trainable(model, adapter)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"out is {str(out)!r}, which is a file; give a folder", param="out")
    run = _Run(model, contexts, adapter, training, writing, tuple(read), seed, folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), disable=say is not None, transient=True)
    with progress:
        run.say = say or progress.console.print
        bar = progress.add_task("training", total=None)
        run.on_step = lambda step, total: progress.update(bar, completed=step, total=total)
        return run.go(given, written, list(keep), merge=merge, save_base=save_base)


def _rule(value: Any) -> Rule:
    if isinstance(value, str):
        return read_rule(value)
    if not callable(value):
        raise UsageError(f"a rule is {value!r:.60}; give a text such as 'regex=PATTERN', or a function", param="rule")
    return Rule(getattr(value, "__name__", "a function"), value)


@dataclass(slots=True)
class _Run:
    """One run: what it was given, and its parts in their order."""

    model: Model
    contexts: Contexts
    adapter: Adapter
    training: Training
    writing: Writing
    rules: tuple[Rule, ...]
    seed: int
    folder: Path
    say: Callable[[str], None] = print
    on_step: Callable[[int, int], None] = lambda step, total: None

    def go(
        self, given: list[Any], num_written: int, texts: list[str], *, merge: bool, save_base: bool | None
    ) -> Distilled:
        """All of it."""
        if given:
            self._check(given)
        kept, ordinary = self._ordinary(texts)
        claim(self.folder, self._mark())
        store = Store(self.folder / "answers.sqlite")
        writer = self._writer(self.model, store)
        prompts = list(given)
        if num_written:
            own = write_prompts(
                self.model, writer, num_written, is_chat=self.contexts.is_chat, seed=self.seed, say=self.say
            )
            prompts += [Dialogue((text,)) for text in own]
            self._check(prompts)
        learnt, held = split(prompts, self.writing.held_out, self.seed)
        write: dict[str, Any] = {"contexts": self.contexts, "seed": self.seed}
        examples, _, tally = write_examples(
            self.model, writer, prompts, learnt, config=self.writing, rules=self.rules, **write
        )
        if len(examples) < FEWEST:
            raise UsageError(
                f"{len(examples)} of {tally.turns} prompts have an answer to learn from, and {FEWEST} are needed; give more "
                "prompts or candidates, or looser rules",
                param="prompts",
            )
        once = dataclasses.replace(self.writing, candidates=1)
        apart, guided, _ = write_examples(
            self.model, writer, prompts, held, config=once, what="answers to measure on", **write
        )
        base = base_of(self.model.base, self.folder, save=save_base, say=self.say)
        facts = self._facts(base) | {
            "prompts": {
                "learnt": len(learnt), "held_out": len(held), "written": num_written, "texts": len(kept),
            },
            "answers": {
                "written": tally.written, "rejected": tally.rejected, "dropped": tally.dropped, "kept": len(examples),
                "logprob": sum(tally.logprobs) / len(tally.logprobs),
            },
        }  # fmt: skip
        return self._train(examples + kept, apart, guided, ordinary, writer, facts, merge=merge)

    def _train(
        self, examples: list[Example], apart: list[Example], guided: list[Any], ordinary: list[Example],
        writer: Writer, facts: dict[str, Any], *, merge: bool,
    ) -> Distilled:  # fmt: skip
        print_of = key_of(
            "run",
            facts["base"]["fingerprint"],
            facts["teacher"]["fingerprint"],
            facts_of(examples),
            self._settings(),
            self.seed,
        )
        folder, merged = self.folder / "adapter", self.folder / "merged" if merge else None
        found = card.finished(folder, print_of, facts)
        if found is not None and (merged is None or mark_of(merged) == print_of):
            return Distilled(folder, facts["base"]["path"], merged, *found)
        plain_writer = self._writer(
            self.model.base, writer.store
        )  # its fingerprint is taken before there is an adapter
        student = Student(self.model, self.adapter, seed=self.seed)
        try:
            teacher, off = uncompiled(self.model), AdapterSwitch(self.model.hf, None)
            lessons = Lessons(teacher, examples, self.training, off=off)
            held_out = Lessons(teacher, apart, self.training, off=off) if apart else None
            before = self._before(student, held_out, ordinary, writer.store, print_of)
            learnt = train(
                student, lessons, held_out, self.training, path=self.folder / CHECKPOINT, fingerprint=print_of,
                seed=self.seed, say=self.say, on_step=self.on_step,
            )  # fmt: skip
            after = self._writer(Model(self.model.hf, self.model.tokenizer, compile=False), writer.store)
            gains = Gains(
                len(apart),
                sum(len(one.answer_ids) for one in apart),
                before[0],
                None if held_out is None else held_out.mean(student),
                shares(plain_writer, after, apart, guided, self.rules, self.writing, seed=self.seed),
                before[1],
                perplexity(student, ordinary),
            )
            trained = sum(p.numel() for p in student.parameters.values())
            facts |= {
                "run": print_of, "trained": trained, "steps": learnt.steps, "tokens": learnt.tokens, "seconds": round(learnt.seconds, 1),
                "curve": [list(row) for row in learnt.curve], "gains": dataclasses.asdict(gains) | {"closed": gains.closed},
            }  # fmt: skip
            student.save(folder, base=facts["base"]["path"], facts=facts)
            added = student.merged() if merge else {}
        finally:
            student.close()
        if merged is not None:
            save_model(self.model, merged, instead=added, mark=print_of)
        num = len(examples)
        return Distilled(folder, facts["base"]["path"], merged, gains, num, learnt.steps, learnt.tokens)

    def _writer(self, model: Model, store: Store) -> Writer:
        return Writer(model, store, weights=model.fingerprint, max_rows=self.writing.max_rows, say=self.say)

    def _check(self, prompts: Sequence[Any]) -> None:
        """Refuse contexts under which the teacher predicts, on every prompt, what the student predicts already."""
        verdict = None
        if self.model.base is not self.model:
            return  # what is switched on, the student has not
        for prompt in prompts:
            has_system = self.contexts.system is not None or getattr(prompt, "system", None) is not None
            if self.contexts.ghost and has_system and isinstance(prompt, Dialogue) and len(prompt.turns) > 1:
                return  # later turns are read otherwise by teacher and student
            reading = self.contexts.read(self.model, prompt, getattr(prompt, "answers", ()))
            if reading.student_ids != reading.prompt_ids:
                return
            verdict = request_of(reading, self.writing, 0).no_effect(self.model)
            if verdict is None and (reading.branches or reading.guide.plausibility):
                return
        reason = "the prompts are read against nothing" if verdict is None else verdict
        raise GuideError(f"there is nothing to learn from this guide: {reason}; give another guide or negative")

    def _ordinary(self, texts: Sequence[str]) -> tuple[list[Example], list[Example]]:
        """Examples of the texts to keep: those to learn from, and those held out."""
        made = [text_to_keep(self.model, text, weight=self.training.keep_weight) for text in texts]
        learnt, held = split(made, self.writing.held_out if made else 0, self.seed)
        return [made[i] for i in learnt], [made[i] for i in held]

    def _before(
        self, student: Student, held_out: Lessons | None, ordinary: list[Example], store: Store, run: str
    ) -> tuple[float | None, float | None]:
        """The held-out loss and the perplexity of ordinary text, before any step: the adapter adds nothing yet."""
        key = key_of("before", run, [len(one.answer_ids) for one in ordinary])
        found = store.get([key])
        if key not in found:
            loss = None if held_out is None else held_out.mean(student)
            found = {key: [loss, perplexity(student, ordinary)]}
            store.put(found)
        loss, ordinary_before = found[key]
        return loss, ordinary_before

    def _settings(self) -> list[Any]:
        """What the adapter depends on besides examples and seed."""
        training = plain(self.training)
        for name in ("checkpoint_s", "measure_every"):
            del training[name]
        return [plain(self.adapter), training]

    def _mark(self) -> str:
        """Tells runs of other models and settings apart before anything is written; what else there is, answers tell."""
        told = (self.contexts.system, self.contexts.negative, self.contexts.student)
        words = [value for value in told if value is None or isinstance(value, str)]
        read = [str(self.contexts.guide), words, self.contexts.is_chat, self.contexts.ghost]
        rules = [rule.name for rule in self.rules]
        return key_of(self.model.fingerprint, self.model.base.fingerprint, self._settings(), read, rules, self.seed)

    def _facts(self, base: dict[str, Any]) -> dict[str, Any]:
        contexts = self.contexts
        told = {
            name: None if value is None else value if isinstance(value, str) else f"{value!r:.200}"
            for name, value in (
                ("system", contexts.system), ("negative", contexts.negative), ("branches", contexts.branches),
                ("student", contexts.student),
            )
        }  # fmt: skip
        return {
            "base": {
                "name": self.model.base.name, "dtype": str(self.model.dtype).removeprefix("torch."),
                **base,
            },
            "teacher": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "guide": None if contexts.guide is None else str(contexts.guide) or str(Guide()),
            "contexts": told | {"chat": contexts.is_chat or None, "ghost": contexts.ghost if contexts.is_chat else None},
            "rules": [rule.name for rule in self.rules],
            "adapter": plain(self.adapter) | {"alpha": self.adapter.scaling},
            "training": plain(self.training),
            "writing": plain(self.writing),
            "seed": self.seed,
            "versions": card.versions(),
        }  # fmt: skip
