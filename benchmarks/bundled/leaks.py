"""Leak check: how much of the held-out text stands in the training text, in runs of 13 words."""

import numpy as np
from common import held_out, keep, opened, parser

from counterpoint.train.corpus import SHINGLE_WORDS, shingles


def main() -> None:
    args = parser(__doc__).parse_args()
    config, corpus, _ = opened(args)
    runs_of: dict[str, list[np.ndarray]] = {}
    for file in ("se", "eltec", "novels100", "sentiment"):
        for record in held_out(config, corpus, file):
            name = "reviews" if file == "sentiment" else corpus.groups[corpus.group[record]]
            if len(corpus.text(record).split()) >= SHINGLE_WORDS:
                runs_of.setdefault(name, []).append(shingles(corpus.text(record)))
    asked = np.unique(np.concatenate([r for runs in runs_of.values() for r in runs]))
    seen = np.zeros(len(asked), dtype=bool)
    for record in np.flatnonzero(~corpus.held):
        runs = shingles(corpus.text(int(record)))
        at = np.minimum(np.searchsorted(asked, runs), len(asked) - 1)
        seen[at[asked[at] == runs]] = True
    table = {}
    for name, runs in sorted(runs_of.items()):
        all_runs = np.concatenate(runs)
        table[name] = {"runs": len(all_runs), "in_training": int(seen[np.searchsorted(asked, all_runs)].sum())}
    keep("leaks", args, {"words_a_run": SHINGLE_WORDS, "held_out": table})


if __name__ == "__main__":
    main()
