"""Samples of the bundled model for six conditions at scales 1, 1.5 and 3. The seed chooses them, nobody else."""

from common import keep, parser

import counterpoint as cp

SCALES = (1.0, 1.5, 3.0)
NOTHING = cp.contexts.Empty()
CONDITIONS = (
    ("Sentiment: positive. Product remark.\n\n", "Sentiment: negative. Product remark.\n\n"),
    ("Sentiment: negative. Product remark.\n\n", "Sentiment: positive. Product remark.\n\n"),
    ("Sentiment: negative. Movie review.\n\n", "Sentiment: positive. Movie review.\n\n"),
    ("Genre: mystery.\n\n", NOTHING),
    ("Genre: children's.\n\n", NOTHING),
    ("Genre: science fiction.\n\n", NOTHING),
)


def main() -> None:
    args = parser(__doc__).parse_args()
    model = cp.load(args.model, dtype="float32")
    made = []
    for prompt, negative in CONDITIONS:
        for scale in SCALES:
            guided = {} if scale == 1 else {"negative": negative, "guide": cp.Guide(scale=scale)}
            done = cp.generate(model, prompt, seed=args.seed, max_tokens=60, temperature=0.8, top_p=0.95, **guided)
            made.append(
                {
                    "prompt": prompt,
                    "negative": negative if isinstance(negative, str) else "(nothing)",
                    "scale": scale,
                    "text": done.text,
                }
            )
    keep("samples", args, {"samples": made})


if __name__ == "__main__":
    main()
