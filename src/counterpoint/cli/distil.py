"""counterpoint distil"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from counterpoint.cli.command import Command, OptionGroup, Options
from counterpoint.cli.contexts import SHARED_CONTEXTS, is_chat, read_shared
from counterpoint.cli.kinds import FILE, NUMBER, OUTPUT_FOLDER, SHARE, WORDS, Count, Input
from counterpoint.cli.options import (
    GUIDE,
    MODEL,
    guide_from,
    open_model,
    option,
    plain_warnings,
    read_text,
    sampling_from,
    sampling_group,
)
from counterpoint.errors import UsageError

if TYPE_CHECKING:
    from counterpoint.distillation import Adapter, Training, Writing

SAMPLING = sampling_group()

ANSWERS = OptionGroup(
    "The answers to learn from",
    (
        option("--write", "written", type=Count(0), default=0, help="So many prompts the model writes itself."),
        option("--candidates", type=Count(1), default=1, help="Answers to each prompt; the best one is kept."),
        option(
            "--rule", multiple=True, metavar="KIND=VALUE",
            help="What an answer must keep: regex=, no=, at-most-words=, ended=yes, instruction=; several times.",
        ),
        option("--held-out", type=SHARE, default=0.1, help="Share of the prompts to measure on."),
        option("--keep", type=FILE, default=None, help="Ordinary texts, one a line, on which nothing shall change."),
        option("--student-system", metavar="TEXT", default=None,
               help="In a chat: the system message that the student reads instead, or 'none', or 'default'."),
        option("--student-without", metavar="TEXT", default=None,
               help="The passage of the prompt that the student does not read."),
        option("--ghost/--no-ghost", default=True,
               help="In conversations: repeat the system message to the teacher at every turn."),
        option("--max-rows", type=Count(2), default=64, help="Rows that are written together."),
    ),
)  # fmt: skip

LEARNING = OptionGroup(
    "How the adapter learns",
    (
        option("--target", metavar="[distribution|samples]", default="distribution",
               help="What guidance predicts at each token, or the tokens alone."),
        option("--target-top", type=Count(0), default=64, help="Tokens told apart in a prediction; 0 is all."),
        option("--rank", type=Count(1), default=16, help="Of the LoRA."),
        option("--alpha", type=NUMBER, default=None, help="Its strength; twice the rank if left out."),
        option("--modules", type=WORDS, default="all-linear", help="Names of linear layers, or all-linear."),
        option("--dropout", type=SHARE, default=0.0, help="Of what the adapter reads while it learns."),
        option("--epochs", type=Count(1), default=3, help="How often each answer is read."),
        option("--batch", type=Count(1), default=8, help="Answers a step."),
        option("--together", type=Count(1), default=4, help="Answers a forward, at most."),
        option("--rate", type=NUMBER, default=5e-4, help="The highest learning rate."),
        option("--warmup", type=SHARE, default=0.1, help="Share of the steps in which the rate rises."),
        option("--weight-decay", type=NUMBER, default=0.0, help="Of AdamW."),
        option("--clip", type=NUMBER, default=1.0, help="The largest norm of a gradient."),
        option("--keep-weight", type=NUMBER, default=1.0, help="What a token of --keep counts beside an answer's."),
        option("--measure-every", type=Count(0), default=0, help="Steps between measurements; 0 is at the end alone."),
        option("--checkpoint-s", type=NUMBER, default=60.0, help="Seconds between checkpoints."),
        option("--threads", type=Count(1), default=None, help="CPU threads; all if left out."),
    ),
)  # fmt: skip


def _check(options: Options) -> None:
    if options["prompts"] is None and not options["written"]:
        raise UsageError("give PROMPTS (a file), or --write so many prompts of the model's own")
    if options["student_system"] is not None and not is_chat(options):
        raise UsageError("--student-system is for a chat; add --chat or --system, or use --student-without")
    if options["student_without"] is not None and is_chat(options):
        raise UsageError("--student-without is for plain prompts; in a chat use --student-system")
    _configs(options)
    from counterpoint.distillation import read_rule

    for rule in options["rule"]:
        read_rule(rule)


def _configs(options: Options) -> tuple[Adapter, Training, Writing]:
    from counterpoint.distillation import Adapter, Training, Writing

    def given(kind: type) -> dict[str, Any]:
        return {one.name: options[one.name] for one in dataclasses.fields(kind) if one.name in options}

    modules = options["modules"] if isinstance(options["modules"], list) else [options["modules"]]
    plain = {param.name: param.default for param in SAMPLING.options}
    sampling = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in sampling_from(options).items()
        if name != "seed" and value not in (None, (), {}) and (name == "max_tokens" or value != plain[name])
    }
    return (
        Adapter(**given(Adapter) | {"modules": tuple(modules)}),
        Training(**given(Training) | {"top": options["target_top"]}),
        Writing(**given(Writing) | {"sampling": sampling}),
    )


@click.command("distil", cls=Command, groups=(ANSWERS, SHARED_CONTEXTS, GUIDE, LEARNING, SAMPLING, MODEL), check=_check)
@click.argument("prompts", required=False, type=Input())
@click.option("--out", required=True, type=OUTPUT_FOLDER, help="Folder for the adapter and what a run keeps.")
@click.option("--merge", is_flag=True, help="Write OUT/merged too: a plain model folder with the adapter added.")
@click.option(
    "--save-base/--no-save-base",
    default=None,
    help="Write the model to OUT/base, as the adapter's base.  [default: where it is in no folder]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the card as JSON.")
def command(prompts: str | None, out: str, merge: bool, save_base: bool | None, as_json: bool, **options: Any) -> None:
    """Make guidance into a LoRA adapter, which writes alone what the guided model writes.

    \b
    counterpoint distil questions.txt --system "Answer in one sentence." --negative-system "Answer at length." \\
        --scale 3 --model smollm2 --out RUN

    PROMPTS has one prompt a line: a text, or {"prompt": TEXT}, {"turns": [TEXT, ...]} or {"messages": [...]}, with "system"
    and "negative" of its own where it has them. RUN/adapter is a folder of peft. The same command goes on after a kill.
    """
    from counterpoint.contexts import Swapped, System
    from counterpoint.distillation import distil, read_file

    given = [] if prompts is None else read_file(prompts)
    texts = (read_text(None, options["keep"], name="file of texts to keep") or "").splitlines()
    adapter, training, writing = _configs(options)
    if options["threads"] is not None:
        import torch

        torch.set_num_threads(options["threads"])
    with plain_warnings():
        model = open_model(options)
        shared = read_shared(model, options)
        student: Any = options["student_system"]
        if student is not None:
            student = {one.value: one for one in System}.get(student, student)
        elif options["student_without"] is not None:
            student = Swapped(options["student_without"])
        done = distil(
            model,
            given,
            out=out,
            guide=guide_from(options, negative=shared["negative"]),
            chat=is_chat(options),
            system=options["system"],
            student=student,
            ghost=options["ghost"],
            written=options["written"],
            rules=options["rule"],
            keep=[text for text in texts if text.strip()],
            adapter=adapter,
            training=training,
            writing=writing,
            seed=options["seed"] or 0,
            merge=merge,
            save_base=save_base,
            **shared,
        )
    if as_json:
        print(json.dumps(json.loads((done.adapter / "distillation.json").read_text())))
        return
    from counterpoint.distillation.card import told

    print(f"{done.adapter}: {told(done.gains, training.target)}")
    if done.merged is not None:
        print(f"{done.merged}: the model with the adapter added")
