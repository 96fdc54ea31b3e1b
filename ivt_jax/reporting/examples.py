"""The figures of photos: rankings of chosen captions, heat maps of sentences and of words."""

from collections.abc import Callable, Sequence

import numpy as np

from ivt_jax.evaluate import photo, strip_rows
from ivt_jax.reporting import photos
from ivt_jax.reporting.figure import Figure, absent
from ivt_jax.reporting.numbers import (
    SEED,
    differing_queries,
    random_queries,
    worst_queries,
)
from ivt_jax.reporting.photos import TOP, WORDS, Heat, Ranking, WordHeat
from ivt_jax.reporting.scored import Scored, records_of
from ivt_jax.retrieval.explain import WordMaps, word_maps

SENTENCES, WORDED = 6, 4  # pairs in the sheets of maps
RANDOM = 4  # captions drawn for rankings
ROWS = 4  # of photos on a sheet: as much as a page of A4 holds
_FRAMES = (
    "Green frames with a check mark: photos of the person described; red frames with a cross: of "
    "others. Below each photo: rank and cosine."
)


def rankings(runs: Sequence[Scored]) -> list[Figure]:
    """A sheet of captions drawn at random, and sheets of those chosen for their ranks.

    Args:
        runs: ours, and after it the base, if any.
    """
    ours, total = runs[0], len(runs[0].queries)
    drawn = f"{RANDOM} of {total:,} captions, drawn at random (seed {SEED}), whatever they show"
    title = "Rankings of captions drawn at random"
    found = _sheets(runs, "ranking-random", title, random_queries(total, RANDOM), drawn)
    if len(runs) == 1:
        worst = worst_queries(ours.first, ROWS)
        why = f"The captions, of all {total:,}, whose first right photo comes last"
        return found + _sheets(
            runs, "ranking-worst", "Rankings of the hardest captions", worst, why
        )
    base = runs[1]
    for name, better, worse in (("better", ours, base), ("worse", base, ours)):
        chosen = differing_queries(better.first, worse.first, ROWS // 2)
        title = f"Where {better.name} beats {worse.name} most"
        why = (
            f"The captions, of all {total:,}, with the largest difference of 1 / rank of the first "
            f"right photo in favour of {better.name}"
        )
        found += _sheets(runs, f"ranking-{name}", title, chosen, why)
    return found


def _sheets(
    runs: Sequence[Scored], name: str, title: str, chosen: list[int], why: str
) -> list[Figure]:
    """As many sheets as it takes, none longer than a page."""
    each = ROWS // len(runs)
    parts = [chosen[start : start + each] for start in range(0, len(chosen), each)] or [[]]
    if len(parts) == 1:
        return [_sheet(runs, name, title, chosen, why)]
    return [
        _sheet(runs, f"{name}-{i}", f"{title}, {i} of {len(parts)}", part, why)
        for i, part in enumerate(parts, 1)
    ]


def _sheet(runs: Sequence[Scored], name: str, title: str, chosen: list[int], why: str) -> Figure:
    if not chosen:
        return absent(name, title, "no caption is of this kind")
    ours = runs[0]
    evaluations = [run.evaluation for run in runs]
    k = min(TOP, len(ours.evaluation.source))
    rows = strip_rows(evaluations, [int(ours.queries[q]) for q in chosen], k=k)
    sheets, numbers = [], []
    for place, query in enumerate(chosen):
        mine = rows[place * len(runs) : (place + 1) * len(runs)]
        firsts = [int(run.first[query]) for run in runs]
        sheets.append(Ranking(mine, firsts))
        numbers.append(
            {
                "query": int(ours.queries[query]),
                "caption": mine[0].caption,
                "runs": {
                    run.name: {
                        "first_right_rank": first,
                        "scores": [round(result.score, 6) for result in row.results],
                        "right": [result.match for result in row.results],
                    }
                    for run, first, row in zip(runs, firsts, mine, strict=True)
                },
            }
        )
    note = f"{ours.evaluation.dataset} {ours.evaluation.split}. {why}. {_FRAMES}"
    canvas = photos.ranking_sheet(sheets, title=title, note=note)
    return Figure(name, title, note, _told(numbers), canvas, numbers={"queries": numbers})


def _told(numbers: list[dict]) -> str:
    sentences = []
    for one in numbers:
        ranks = ", ".join(
            f"{name}: first right photo at rank {run['first_right_rank']}"
            for name, run in one["runs"].items()
        )
        sentences.append(f'"{one["caption"]}" {ranks}.')
    return " ".join(sentences)


def maps(runs: Sequence[Scored], *, done: Callable[[int], object]) -> list[Figure]:
    """Heat maps of whole sentences and of words, for captions drawn at random.

    Args:
        runs: ours, and after it the base, if any; words are shown for ours alone.
        done: told of each pair explained.
    """
    ours = runs[0]
    chosen = random_queries(len(ours.queries), SENTENCES)
    pairs = [_pair(ours, query) for query in chosen]
    explained: list[list[WordMaps]] = []
    for image, caption in pairs:
        explained.append([word_maps(run.model, image, caption) for run in runs])
        done(1)
    return [_sentences(runs, chosen, pairs, explained), _words(ours, chosen, pairs, explained)]


def _pair(run: Scored, query: int):
    encoded, row = run.evaluation.encoded, run.queries[query]
    return photo(run.evaluation.source, encoded.text_images[row]), encoded.captions[row]


def _sentences(runs, chosen, pairs, explained) -> Figure:
    title = "Where a sentence is seen"
    heats, numbers = [], []
    for query, (image, caption), found in zip(chosen, pairs, explained, strict=True):
        named = list(zip([run.name for run in runs], found, strict=True))
        heats.append(Heat(image, caption, [(name, one.sentence_map) for name, one in named]))
        numbers.append(
            {
                "query": int(runs[0].queries[query]),
                "caption": caption,
                "runs": {
                    name: {"score": round(one.score, 6), "map": _rounded(one.sentence_map)}
                    for name, one in named
                },
            }
        )
    note = (
        f"{len(chosen)} captions drawn at random (seed {SEED}) with the photos they describe. "
        "Warm is a patch without which the score falls; grey is one that changes nothing or "
        "lowers it."
    )
    told = "Photos, each with its caption and maps of the patches that the score rests on."
    canvas = photos.heat_sheet(heats, title=title, note=note)
    return Figure("sentences", title, note, told, canvas, numbers={"pairs": numbers})


def _words(ours: Scored, chosen, pairs, explained) -> Figure:
    title = f"Where {ours.name} sees each word"
    heats, numbers = [], []
    _, words_of = records_of(ours)
    rows = zip(chosen[:WORDED], pairs, explained, strict=False)
    for query, (image, caption), (found, *_) in rows:
        stored = set(words_of[query])
        kept = _weighty(found, stored)
        shown = [(found.words[i], found.maps[i], float(found.word_scores[i])) for i in kept]
        heats.append(WordHeat(image, caption, found.score, shown))
        words = [
            {"word": word, "adds": round(adds, 6), "map": _rounded(values)}
            for word, values, adds in shown
        ]
        query = int(ours.queries[query])
        numbers.append({"query": query, "caption": caption, "score": found.score, "words": words})
    note = (
        f"{len(heats)} captions drawn at random (seed {SEED}), and the {WORDS} nouns and "
        "adjectives of each that change its score most, in their order. Warm is where the meaning "
        "of a word and its neighbours is lost with the patch. Numbers: the cosine of photo and "
        "sentence, and what it loses without the word."
    )
    told = " ".join(
        f'"{one["caption"]}": ' + ", ".join(f"{w['word']} {w['adds']:+.3f}" for w in one["words"])
        for one in numbers
    )
    canvas = photos.word_sheet(heats, title=title, note=note)
    return Figure("words", title, note, told, canvas, numbers={"pairs": numbers})


def _weighty(found: WordMaps, stored: set[str]) -> list[int]:
    """The words that change the score most, in their order; of the stored ones, if any is."""
    known = [i for i, word in enumerate(found.words) if word.lower() in stored]
    scores = np.abs(found.word_scores)
    order = sorted(known or range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[:WORDS])


def _rounded(values: np.ndarray) -> list:
    return [[round(float(value), 6) for value in row] for row in values]
