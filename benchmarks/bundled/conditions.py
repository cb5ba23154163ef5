"""Do conditions work? A judge trained on held-out text names the genre or sentiment of generated text.

A judge is TF-IDF of words and pairs and a logistic regression; each kind of text has its own. For every condition and
scale the same prompts and seeds are used; guidance pushes from the other sentiment, and for genres from no condition
at all.
"""

import random

from common import GENRES, SENTIMENTS, genre_of, held_out, keep, opened, parser, wilson
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

import counterpoint as cp

SCALES = (1.0, 1.5, 3.0)
PASSAGE_WORDS = 60
REVIEWS = {
    "movie review": "Movie review",
    "movie review sentence": "Movie review sentence",
    "product remark": "Product remark",
}


def pieces(texts: list[tuple[str, str]], labels: tuple[str, ...], rng: random.Random) -> tuple[list, list, list]:
    """60-word pieces of labelled texts, as many of each label: the pieces, their labels, and the text each is from."""
    found: dict[str, list] = {label: [] for label in labels}
    for number, (text, label) in enumerate(texts):
        words = text.split()
        for at in range(0, max(1, len(words) - PASSAGE_WORDS), PASSAGE_WORDS):
            found[label].append((" ".join(words[at : at + PASSAGE_WORDS]), label, number))
    fewest = min(map(len, found.values()))
    chosen = [piece for label in labels for piece in rng.sample(found[label], fewest)]
    return tuple(map(list, zip(*chosen)))


def judge_of(texts: list[str], labels: list[str], source: list[int]):
    """The judge, and its share of right answers in fivefold cross-validation, no text in two folds."""
    judge = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(C=10, max_iter=500)
    )
    share = cross_val_score(judge, texts, labels, groups=source, cv=GroupKFold(5, shuffle=True, random_state=0)).mean()
    return judge.fit(texts, labels), float(share)


def written(model, prompt: str, negative, scale: float, count: int, tokens: int, seed: int) -> list[str]:
    """`count` samples at temperature 1, with seeds that do not depend on the scale."""
    guided = {} if scale == 1 else {"negative": negative, "guide": cp.Guide(scale=scale)}
    done = []
    for at in range(0, count, 32):
        some = range(at, min(at + 32, count))
        done += cp.generate(model, [prompt] * len(some), seed=[seed + i for i in some], max_tokens=tokens, **guided)
    return [d.text.strip() for d in done]


def share_right(judge, texts: list[str], asked: str) -> tuple[int, int]:
    return int((judge.predict([t or "." for t in texts]) == asked).sum()), len(texts)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--samples", type=int, default=100, help="for each condition and scale")
    made.add_argument("--tokens", type=int, default=64)
    args = made.parse_args()
    config, corpus, model = opened(args)
    rng = random.Random(args.seed)
    reviews = {
        kind: [
            (corpus.text(r), corpus.conditions[r]["sentiment"][0])
            for r in held_out(config, corpus, "sentiment")
            if corpus.conditions[r]["kind"][0] == kind
        ]
        for kind in REVIEWS
    }
    books = [
        (corpus.text(r), genre) for r in held_out(config, corpus, "se") if (genre := genre_of(corpus.conditions[r]))
    ]
    kinds = {
        f"sentiment, {kind}": (
            pieces(reviews[kind], SENTIMENTS, rng),
            {
                s: (f"Sentiment: {s}. {title}.\n\n", f"Sentiment: {SENTIMENTS[1 - i]}. {title}.\n\n")
                for i, s in enumerate(SENTIMENTS)
            },
        )
        for kind, title in REVIEWS.items()
    }
    kinds["genre"] = (pieces(books, GENRES, rng), {g: (f"Genre: {g}.\n\n", cp.contexts.Empty()) for g in GENRES})
    result = {}
    for kind, (known, prompts) in kinds.items():
        judge, share = judge_of(*known)
        result[kind] = {
            "judge": {"texts": len(known[0]), "cross_validated": share, "chance": 1 / len(prompts)},
            "scales": {},
        }
        for scale in SCALES:
            rows, right, total = {}, 0, 0
            for asked, (prompt, negative) in prompts.items():
                hit, of = share_right(
                    judge, written(model, prompt, negative, scale, args.samples, args.tokens, args.seed), asked
                )
                rows[asked] = [hit, of, *wilson(hit, of)]
                right, total = right + hit, total + of
            result[kind]["scales"][str(scale)] = {"all": [right, total, *wilson(right, total)], "by_condition": rows}
            print(kind, scale, right, "of", total, flush=True)
    keep("conditions", args, {"kinds": result, "samples": args.samples, "tokens": args.tokens})


if __name__ == "__main__":
    main()
