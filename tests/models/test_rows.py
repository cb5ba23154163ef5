"""One contract for every implementation of `Rows`, against the model without any cache."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from conformance.architectures import ARCHITECTURES, next_logits

from counterpoint.models.attention import FewQueries
from counterpoint.models.linears import Linears
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.rows import Feed, Rows
from counterpoint.models.separate import Manner, SeparateRows
from counterpoint.models.switched import SwitchedRows

TEXT = tuple(5 + 7 * at % 100 for at in range(40))
OTHER = tuple(3 + 11 * at % 100 for at in range(40))


def _ragged(name: str, *, kernels: bool) -> Rows:
    model = ARCHITECTURES[name].model()
    linears = Linears(model, compiled=kernels, keeps_layout=True)
    return RaggedRows(model, None, linears, FewQueries(model, compiled=kernels))


def _separate(name: str, **manner: object) -> Rows:
    return SeparateRows(ARCHITECTURES[name].model(), manner=Manner(**manner))


@contextlib.contextmanager
def _switch() -> Iterator[None]:
    yield


IMPLEMENTATIONS: dict[str, tuple[str, Callable[[str], Rows]]] = {
    "ragged": ("gemma3", lambda name: _ragged(name, kernels=False)),
    "ragged by kernels": ("gpt2", lambda name: _ragged(name, kernels=True)),
    "separate": ("bloom", _separate),
    "separate, no positions": ("bloom", lambda name: _separate(name, positions=False, mask=True)),
    "separate, token by token": ("mamba", lambda name: _separate(name, several=False, crops=False)),
    "separate, a window": ("mistral", _separate),  # whose cache can't be cut back past its window
    "separate, read anew at a length": ("llama", lambda name: _separate(name, anew_at=(9, 14))),
    "separate, read anew from a length": ("llama", lambda name: _separate(name, anew_from=11)),
    "separate, always read anew": ("llama", lambda name: _separate(name, crops=False, anew_from=0)),
    "switched": ("llama", lambda name: SwitchedRows(_ragged(name, kernels=False), [_switch, _switch])),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[torch.nn.Module, Rows]]:
    name, new_rows = IMPLEMENTATIONS[request.param]
    with torch.inference_mode():
        yield ARCHITECTURES[name].model(), new_rows(name)


def _check(model: torch.nn.Module, got: torch.Tensor, *texts: tuple[int, ...]) -> None:
    want = torch.stack([next_logits(model, text, ()) for text in texts])
    assert got.shape == want.shape
    assert torch.allclose(got.float(), want, atol=1e-3)


def test_every_implementation_is_here() -> None:
    assert {type(new_rows(name)) for name, new_rows in IMPLEMENTATIONS.values()} == _subclasses(Rows)


def _subclasses(cls: type) -> set[type]:
    here = {sub for sub in cls.__subclasses__() if sub.__module__.startswith("counterpoint.")}
    return here | {sub for one in here for sub in _subclasses(one)}


def test_rows_of_any_lengths_are_read_together(case) -> None:
    model, rows = case
    long, short = rows.add(), rows.add()
    got = rows.forward([Feed(long, TEXT[:17]), Feed(short, OTHER[:2])])
    _check(model, got, TEXT[:17], OTHER[:2])
    got = rows.forward([Feed(short, OTHER[2:3]), Feed(long, TEXT[17:18])])  # in the order that they are fed
    _check(model, got, OTHER[:3], TEXT[:18])
    assert (rows.num_rows, rows.length(long), rows.length(short)) == (2, 18, 3)


def test_columns(case) -> None:
    """As asked: any order, from the end, twice, none."""
    model, rows = case
    one, other = rows.add(), rows.add()
    got = rows.forward([Feed(one, TEXT[:12], columns=()), Feed(other, OTHER[:5], columns=(-1, 1, 1))])
    _check(model, got, OTHER[:5], OTHER[:2], OTHER[:2])
    got = rows.forward([Feed(one, TEXT[12:16], columns=(3, 0, -2))])
    _check(model, got, TEXT[:16], TEXT[:13], TEXT[:15])
    assert len(rows.forward([Feed(other, OTHER[5:7], columns=())])) == 0
    _check(model, rows.forward([Feed(other, OTHER[7:8])]), OTHER[:8])


def test_forks_go_their_own_ways(case) -> None:
    model, rows = case
    row = rows.add()
    rows.forward([Feed(row, TEXT[:15])])
    whole, part = rows.fork(row), rows.fork(row, 12)
    got = rows.forward([Feed(part, OTHER[:2]), Feed(row, TEXT[15:16]), Feed(whole, OTHER[:1])])
    _check(model, got, TEXT[:12] + OTHER[:2], TEXT[:16], TEXT[:15] + OTHER[:1])
    rows.free(row)
    _check(model, rows.forward([Feed(part, OTHER[2:3])]), TEXT[:12] + OTHER[:3])


def test_rows_are_cut_back(case) -> None:
    model, rows = case
    row = rows.add()
    rows.forward([Feed(row, TEXT[:18])])
    for length in (18, 16, 9, 1, 0):
        rows.crop(row, length)
        assert rows.length(row) == length
        _check(model, rows.forward([Feed(row, OTHER[:2])]), TEXT[:length] + OTHER[:2])
        rows.crop(row, length)


def test_scratch_is_forgotten(case) -> None:
    model, rows = case
    row = rows.add()
    rows.forward([Feed(row, TEXT[:8])])
    got = rows.forward([Feed(row, TEXT[8:9] + OTHER[:3], columns=(0, 3), scratch=3)])
    _check(model, got, TEXT[:9], TEXT[:9] + OTHER[:3])
    assert rows.length(row) == 9
    _check(model, rows.forward([Feed(row, TEXT[9:11])]), TEXT[:11])


def test_a_snapshot_begins_another_row(case) -> None:
    model, rows = case
    row = rows.add()
    rows.forward([Feed(row, TEXT[:14])])
    snapshot = rows.snapshot(row, 12)
    rows.free(row)
    if snapshot is None:
        with pytest.raises(NotImplementedError, match="takes no snapshots"):
            rows.add_from([], 0)
        return
    new = rows.add_from(snapshot, 10)
    assert rows.length(new) == 10 and rows.num_bytes > 0
    _check(model, rows.forward([Feed(new, OTHER[:3])]), TEXT[:10] + OTHER[:3])


def test_a_forward_that_fails_changes_no_row(case) -> None:
    model, rows = case
    row = rows.add()
    rows.forward([Feed(row, TEXT[:6])])
    with pytest.raises(IndexError):
        rows.forward([Feed(row, [10_000])])
    assert rows.length(row) == 6
    _check(model, rows.forward([Feed(row, TEXT[6:8])]), TEXT[:8])


def test_freed_rows_leave_the_others_alone(case) -> None:
    model, rows = case
    handles = [rows.add() for _ in range(5)]
    rows.forward([Feed(row, TEXT[at : at + 4]) for at, row in enumerate(handles)])
    rows.free(handles[1])
    rows.free(handles[4])
    assert rows.num_rows == 3
    got = rows.forward([Feed(handles[at], OTHER[:1]) for at in (3, 0, 2)])
    _check(model, got, *(TEXT[at : at + 4] + OTHER[:1] for at in (3, 0, 2)))
    assert rows.add() not in handles


def test_any_order_of_doings(case) -> None:
    model, rows = case
    chance, held = random.Random(1), {}
    for _ in range(30):
        doing = chance.choice(["add", "feed", "feed", "feed", "fork", "crop", "free"]) if held else "add"
        row = chance.choice(list(held)) if held else None
        if doing == "add" and len(held) < 4:
            row = rows.add()
            held[row] = ()
        elif doing == "fork" and len(held) < 4 and held[row]:
            length = chance.randint(1, len(held[row]))
            held[rows.fork(row, length)] = held[row][:length]
        elif doing == "crop":
            length = chance.randint(0, len(held[row]))
            rows.crop(row, length)
            held[row] = held[row][:length]
        elif doing == "free":
            rows.free(row)
            del held[row]
        elif held:
            chosen = chance.sample(list(held), chance.randint(1, len(held)))
            new = {row: tuple(chance.choices(range(2, 110), k=chance.randint(1, 5))) for row in chosen}
            got = rows.forward([Feed(row, ids) for row, ids in new.items()])
            held |= {row: held[row] + ids for row, ids in new.items()}
            _check(model, got, *(held[row] for row in new))
        assert {row: rows.length(row) for row in held} == {row: len(text) for row, text in held.items()}
