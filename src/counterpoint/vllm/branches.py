"""Which requests belong together: a user's request and the hidden ones of its further branches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MARK = "#branch"


def branch_id(owner: str, number: int) -> str:
    """The id of the hidden request for further branch `number`, from 0."""
    return f"{owner}{MARK}{number}"


def owner_of(request_id: str) -> str | None:
    """The user's request that a hidden request belongs to; None for a user's own."""
    owner, mark, _ = request_id.rpartition(MARK)
    return owner if mark else None


@dataclass(slots=True, eq=False)
class Group:
    """One unit of scheduling: a user's request and the hidden requests of its branches."""

    owner: str
    branches: tuple[Any, ...]  # of vllm.v1.request.Request
    held_steps: int = 0
    held_since: float = 0.0
    members: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.members = (self.owner, *(branch.request_id for branch in self.branches))


class Groups:
    """The groups that are alive, by any of their members; in order of arrival."""

    def __init__(self) -> None:
        self._by_member: dict[str, Group] = {}
        self._by_owner: dict[str, Group] = {}

    def add(self, group: Group) -> None:
        """Note a group under each of its members."""
        self._by_member.update(dict.fromkeys(group.members, group))
        self._by_owner[group.owner] = group

    def of(self, request_id: str) -> Group | None:
        """The group that a request belongs to, if it is alive."""
        return self._by_member.get(request_id)

    def drop(self, group: Group) -> None:
        """Forget a group."""
        for member in group.members:
            del self._by_member[member]
        del self._by_owner[group.owner]

    def __iter__(self) -> Iterator[Group]:
        return iter(self._by_owner.values())

    def __len__(self) -> int:
        return len(self._by_owner)
