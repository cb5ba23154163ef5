"""What is read before an answer: by the guided model, which has branches, and by the student, which has one context."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.contexts import (
    BranchedPrompt,
    OtherModel,
    ReadBranch,
    System,
    chat,
    chat_prompt,
    read_prompt,
    read_request,
)
from counterpoint.contexts.chat import is_conversation
from counterpoint.contexts.messages import JOINT, Message
from counterpoint.distillation.dialogues import Dialogue
from counterpoint.errors import PromptError, UsageError
from counterpoint.guide import Branch, Guide

if TYPE_CHECKING:
    from counterpoint.models.model import Model


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read before one answer.

    Args:
        student_ids: token ids that the student reads.
        prompt_ids: those of the conditional branch.
        branches: the further branches.
        guide: how the branches are combined.
    """

    student_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    branches: tuple[ReadBranch, ...]
    guide: Guide


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the teacher and the student read, the same for all prompts.

    Args:
        guide: how predictions are combined; None is the ordinary default. At scale 1 the teacher is unguided, which
            teaches something only where it reads more than the student.
        negative, branches: as `counterpoint.generate` takes them; in a chat as `contexts.chat` does.
        is_chat: prompts are what a user says, written through the model's chat template.
        system: the instruction that conversations begin with.
        student: what the student reads in place of the prompt: in a chat a system message (a text, `NO_SYSTEM`,
            `DEFAULT_SYSTEM`), else a context such as `Swapped`. None is the prompt.
        ghost: in conversations the teacher's branches have their system messages again before every later turn of the
            user's; the student has its own at the beginning alone. The adapter then keeps an instruction over turns.

    Raises:
        UsageError: a system message for prompts that are no chat.

    Source: Ghost Attention, Touvron et al. 2023, arXiv 2307.09288, section 3.3.
    """

    guide: Guide | None = None
    negative: Any = None
    branches: Sequence[Branch] | None = None
    is_chat: bool = False
    system: str | None = None
    student: Any = None
    ghost: bool = True

    def __post_init__(self) -> None:
        if self.system is not None and not self.is_chat:
            raise UsageError("system is given and the prompts are no chat; say chat=True", param="system")
        if self.system == "":
            raise UsageError("system is empty; give a text, or leave it out", param="system")

    def read(self, model: Model, prompt: Any, answers: Sequence[str] = ()) -> Reading:
        """What is read before the answer to a prompt, or to the turn that comes after `answers`.

        Raises:
            UsageError: a context can't be read.
        """
        if self.is_chat:
            return self._read_chat(model, prompt, answers)
        if isinstance(prompt, Dialogue):
            if len(prompt.turns) > 1 or prompt.system is not None:
                raise PromptError("a prompt is a conversation; say chat=True, or give a text", param="prompts")
            own, prompt = self._own_negative(prompt), prompt.turns[0]
        else:
            own = None
        ids, branches, guide = read_request(
            model, prompt, negative=self.negative if own is None else own, branches=self.branches, guide=self.guide
        )
        student_ids = ids
        if self.student is not None:
            if isinstance(prompt, BranchedPrompt):
                raise PromptError("student is given, and a prompt was built with its branches; give texts instead")
            _, (read,), _ = read_request(model, prompt, branches=[Branch(self.student, 1.0)])
            if read.is_suffix or read.model is not None:
                raise UsageError(f"student is {self.student!r:.60}; give a text, token ids or a passage to swap")
            student_ids = read.ids
        return Reading(student_ids, ids, branches, guide or Guide())

    def _read_chat(self, model: Model, prompt: Any, answers: Sequence[str]) -> Reading:
        if not isinstance(prompt, Dialogue):
            raise PromptError(f"a prompt is {prompt!r:.60}; in a chat give texts or messages", param="prompts")
        turns, said = prompt.turns[: len(answers) + 1], [*prompt.answers, *answers[len(prompt.answers) :]]
        system = self.system if prompt.system is None else prompt.system
        once = _messages(system, turns, said)
        if self.student is None:
            student = chat_prompt(model, once)
        elif isinstance(self.student, str | System):
            student = chat(model, once, negative=self.student).branches[0].context
        else:
            raise UsageError(f"student is {self.student!r:.60}; in a chat give a system message")
        branches = self._branches(prompt, system)
        if branches is None:
            built: Any = chat_prompt(model, once)
        elif self.ghost and system is not None and len(turns) > 1:
            built = BranchedPrompt(
                chat_prompt(model, _repeated(system, turns, said)),
                tuple(Branch(_again(model, one.context, once, turns, said), one.weight) for one in branches),
            )
        else:
            built = chat(model, once, branches=branches)
        ids, read, guide = read_request(model, built, guide=self.guide)
        return Reading(read_prompt(model, student), ids, read, guide or Guide())

    def _own_negative(self, prompt: Dialogue) -> Any:
        if prompt.negative is not None and self.branches is not None:
            raise PromptError(
                f"the prompt {prompt.turns[0][:40]!r} has a negative of its own, and branches are given for all; keep one",
                param="prompts",
            )
        return prompt.negative

    def _branches(self, prompt: Dialogue, system: str | None) -> Sequence[Branch] | None:
        """The further branches; None where there is nothing to read the conversation against."""
        own = self._own_negative(prompt)
        if self.branches is not None:
            return self.branches
        negative = self.negative if own is None else own
        is_off = self.guide is not None and self.guide.scale == 1
        if negative is None and (system is None or is_off):
            return None
        return [Branch(System.DEFAULT if negative is None else negative)]


def _messages(system: str | None, turns: Sequence[str], answers: Sequence[str]) -> list[Message]:
    made: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for number, turn in enumerate(turns):
        made.append({"role": "user", "content": turn})
        if number < len(answers):
            made.append({"role": "assistant", "content": answers[number]})
    return made


def _repeated(system: str, turns: Sequence[str], answers: Sequence[str]) -> list[Message]:
    """The conversation with the system message again before every turn of the user's but the first."""
    return _messages(system, [turns[0], *(system + JOINT + turn for turn in turns[1:])], answers)


def _again(model: Model, context: Any, once: Sequence[Message], turns: Sequence[str], answers: Sequence[str]) -> Any:
    """A branch's context with its own system message before every turn, as the prompt has its own."""
    if isinstance(context, OtherModel):
        if context.context is None:
            return context
        return dataclasses.replace(context, context=_again(model, context.context, once, turns, answers))
    if is_conversation(context):
        raise PromptError("a branch is a whole conversation, and the prompt has several turns; give a system message")
    if isinstance(context, str):
        return chat_prompt(model, _repeated(context, turns, answers))
    if isinstance(context, System):
        return chat(model, once, branches=[Branch(context)]).branches[0].context
    return context
