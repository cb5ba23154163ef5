"""A conversation as a value: what was said, and what its system message is read against."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterpoint.contexts.branched_prompt import BranchedPrompt
from counterpoint.contexts.chat import System, chat, chat_prompt
from counterpoint.contexts.kinds import Rendered
from counterpoint.errors import PromptError

if TYPE_CHECKING:
    from counterpoint.contexts.messages import Message
    from counterpoint.models.model import Model

FORMAT = "counterpoint-conversation"


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the user said, and what was answered; None where an answer is to come."""

    user: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. Every change gives a new one.

    Args:
        exchanges: from the first to the last; only the last may lack its answer.
        system: the system message; None leaves it to the template.
        negative: another system message, which the other branch has instead: a text, `DEFAULT_SYSTEM` or `NO_SYSTEM`;
            None is no other branch.

    Raises:
        PromptError: an exchange in the middle has no answer, or the user said nothing.
    """

    exchanges: tuple[Exchange, ...] = ()
    system: str | None = None
    negative: str | System | None = None

    def __post_init__(self) -> None:
        if any(exchange.answer is None for exchange in self.exchanges[:-1]):
            raise PromptError("an exchange before the last has no answer; answer it, or leave it out")
        if any(not exchange.user.strip() for exchange in self.exchanges):
            raise PromptError("the message is empty; give a text")

    def asked(self, text: str) -> Conversation:
        """With something that the user says. A question that has no answer yet is replaced."""
        kept = self.exchanges[:-1] if self.is_open else self.exchanges
        return dataclasses.replace(self, exchanges=(*kept, Exchange(text)))

    def answered(self, text: str) -> Conversation:
        """With the answer to what was said last; another answer where there is one. Raises `PromptError` before the
        first message."""
        if not self.exchanges:
            raise PromptError("nothing was said that could be answered; say something first")
        last = dataclasses.replace(self.exchanges[-1], answer=text)
        return dataclasses.replace(self, exchanges=(*self.exchanges[:-1], last))

    def reopened(self) -> Conversation:
        """Without the last answer, so that it can be written again. Raises as `answered`."""
        opened = Exchange(self.answered("").exchanges[-1].user)
        return dataclasses.replace(self, exchanges=(*self.exchanges[:-1], opened))

    def undone(self) -> Conversation:
        """Without the last exchange. Raises as `answered`."""
        self.answered("")
        return dataclasses.replace(self, exchanges=self.exchanges[:-1])

    def under(self, *, system: str | None, negative: str | System | None) -> Conversation:
        """With other system messages."""
        return dataclasses.replace(self, system=system, negative=negative)

    @property
    def is_open(self) -> bool:
        """Whether the last message has no answer yet."""
        return bool(self.exchanges) and self.exchanges[-1].answer is None

    @property
    def messages(self) -> list[Message]:
        """As chat templates and OpenAI's API have it."""
        made: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        for exchange in self.exchanges:
            made.append({"role": "user", "content": exchange.user})
            if exchange.answer is not None:
                made.append({"role": "assistant", "content": exchange.answer})
        return made

    def prompt(self, model: Model) -> BranchedPrompt | Rendered:
        """What `generate` takes, to answer what was said last. Raises as `contexts.chat`."""
        if self.negative is None:
            return chat_prompt(model, self.messages)
        return chat(model, self.messages, negative=self.negative)

    def shortened(self, fits: Callable[[Conversation], bool]) -> Conversation:
        """Without as many of the oldest exchanges as it takes to fit; the last one always stays."""
        made = self
        while len(made.exchanges) > 1 and not fits(made):
            made = dataclasses.replace(made, exchanges=made.exchanges[1:])
        return made

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_dict` reads them back."""
        negative = self.negative
        return {
            "format": FORMAT,
            "messages": self.messages,
            "negative_system": {"named": negative.value} if isinstance(negative, System) else negative,
        }

    @classmethod
    def from_dict(cls, record: Any) -> Conversation:
        """A conversation from what `to_dict` gave, or from a list of messages. Raises `PromptError`."""
        fields = record if isinstance(record, Mapping) else {"messages": record}
        messages, negative = fields.get("messages"), fields.get("negative_system")
        try:
            said = [(message["role"], message["content"]) for message in messages]  # type: ignore[union-attr]
            named = System(negative["named"]) if isinstance(negative, Mapping) else negative
        except (TypeError, KeyError, ValueError):
            raise PromptError("this is no conversation; give a list of messages with role and content") from None
        system = said.pop(0)[1] if said and said[0][0] == "system" else None
        made = cls(system=system, negative=named)
        for role, content in said:
            if not isinstance(content, str) or role not in ("user", "assistant"):
                raise PromptError(
                    f"a message is {role!r} with {type(content).__name__}; use texts of user and assistant"
                )
            made = made.asked(content) if role == "user" else made.answered(content)
        return made

    @classmethod
    def parse(cls, text: str) -> Conversation:
        """A conversation from JSON. Raises `PromptError`."""
        try:
            return cls.from_dict(json.loads(text))
        except ValueError as error:
            if isinstance(error, PromptError):
                raise
            raise PromptError(f"this is not valid JSON: {error}") from None
