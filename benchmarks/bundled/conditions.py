"""Do conditions work? A judge trained on held-out text names the genre or sentiment of generated text.

The judge is TF-IDF of words and pairs and a logistic regression. For every condition and scale the same prompts and
seeds are used; guidance pushes from the other sentiment, and for genres from no condition at all.
"""

import random

import counterpoint as cp
from common import GENRES, SENTIMENTS, genre_of, held_out, keep, opened, parser, wilson
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

SCALES = (1.0, 1.5, 3.0)
PASSAGE_WORDS = 60


def passages(config, corpus, rng: random.Random) -> tuple[list[str], list[str]]:
    """60-word passages of held-out books with one of the genres, as many of each, and their genres."""
    texts, labels = [], []
    for record in held_out(config, corpus, "se"):
        genre = genre_of(corpus.conditions[record])
        words = corpus.text(record).split()
        for at in range(0, len(words) - PASSAGE_WORDS, PASSAGE_WORDS):
            if genre is not None:
                texts.append(" ".join(words[at:at + PASSAGE_WORDS]))
                labels.append(genre)
    fewest = min(labels.count(g) for g in GENRES)
    chosen = [i for g in GENRES for i in rng.sample([i for i, l in enumerate(labels) if l == g], fewest)]
    return [texts[i] for i in chosen], [labels[i] for i in chosen]


def reviews(config, corpus) -> tuple[list[str], list[str]]:
    """Held-out reviews and remarks of at least eight words, and their sentiments."""
    some = [r for r in held_out(config, corpus, "sentiment") if len(corpus.text(r).split()) >= 8]
    return [" ".join(corpus.text(r).split()[:PASSAGE_WORDS]) for r in some], [corpus.conditions[r]["sentiment"][0] for r in some]


def judge_of(texts: list[str], labels: list[str]):
    """The judge, and its share of right answers in fivefold cross-validation."""
    judge = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(C=10, max_iter=500))
    share = cross_val_score(judge, texts, labels, cv=5).mean()
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
    kinds = {
        "sentiment": (reviews(config, corpus), {s: (f"Sentiment: {s}. Movie review.\n\n",
                      f"Sentiment: {SENTIMENTS[1 - i]}. Movie review.\n\n") for i, s in enumerate(SENTIMENTS)}),
        "genre": (passages(config, corpus, rng), {g: (f"Genre: {g}.\n\n", cp.contexts.Empty()) for g in GENRES}),
    }
    result = {}
    for kind, ((texts, labels), prompts) in kinds.items():
        judge, share = judge_of(texts, labels)
        result[kind] = {"judge": {"texts": len(texts), "cross_validated": share, "chance": 1 / len(prompts)}, "scales": {}}
        for scale in SCALES:
            rows, right, total = {}, 0, 0
            for asked, (prompt, negative) in prompts.items():
                hit, of = share_right(judge, written(model, prompt, negative, scale, args.samples, args.tokens, args.seed), asked)
                rows[asked] = [hit, of, *wilson(hit, of)]
                right, total = right + hit, total + of
            result[kind]["scales"][str(scale)] = {"all": [right, total, *wilson(right, total)], "by_condition": rows}
            print(kind, scale, result[kind]["scales"][str(scale)], flush=True)
    keep("conditions", args, result | {"samples": args.samples, "tokens": args.tokens})


if __name__ == "__main__":
    main()
