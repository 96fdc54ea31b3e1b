"""What figures show, as numbers: R@k, chosen queries, R1 of kinds of captions. NumPy only."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

SEED = 0  # of the queries drawn at random
FEWEST = 10  # captions of a kind, at least, for a row of its own
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")


def first_ranks(ranks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Rank from 1 of each query's first right photo, int64 (Q,); 0 where it has none.

    Args:
        ranks, valid: (Q, P), as `ranks_of_positives` gives them.
    """
    return np.where(valid[:, 0], ranks[:, 0].astype(np.int64) + 1, 0)


def recall_curve(first: np.ndarray, *, gallery: int, most: int = 50) -> dict[str, list]:
    """R@k in percent for k from 1 to `most` or the whole gallery.

    Args:
        first: (Q,) as `first_ranks` gives them; 0 counts as never found.
        gallery: photos in it.
    """
    found = np.bincount(first, minlength=gallery + 1)[1 : min(most, gallery) + 1]
    percent = 100 * np.cumsum(found) / len(first)
    return {"k": list(range(1, len(percent) + 1)), "percent": percent.tolist()}


def interval(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent; captions are taken as independent."""
    z, share = 1.959964, hits / total
    middle = share + z * z / (2 * total)
    half = z * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 100 / (1 + z * z / total)
    return float(max(scale * (middle - half), 0)), float(min(scale * (middle + half), 100))


def random_queries(total: int, count: int) -> list[int]:
    """Queries drawn without replacement with a fixed seed, rising."""
    chosen = np.random.default_rng(SEED).choice(total, min(count, total), replace=False)
    return sorted(map(int, chosen))


def worst_queries(first: np.ndarray, count: int) -> list[int]:
    """The queries whose first right photo comes last; of equal ones the earlier."""
    order = np.argsort(-first, kind="stable")
    return [int(query) for query in order[:count] if first[query] > 1]


def differing_queries(ours: np.ndarray, base: np.ndarray, count: int) -> list[int]:
    """Up to `count` queries that gain most over the base, the largest gain first.

    The gain is the difference of 1 / rank of the first right photo; of equal gains the larger
    difference of ranks counts, then the earlier query. The losses are those with `ours` and `base`
    exchanged.

    Args:
        ours, base: (Q,) as `first_ranks` gives them, of the same queries.
    """
    seen = (ours > 0) & (base > 0)
    one, two = np.maximum(ours, 1), np.maximum(base, 1)
    gain = np.where(seen, 1 / one - 1 / two, 0.0)
    order = np.lexsort((np.arange(len(gain)), one - two, -gain))
    return [int(query) for query in order[:count] if gain[query] > 0]


def group(hits: np.ndarray, members: np.ndarray) -> dict[str, float]:
    """Captions of a kind: number, R1 in percent, and its 95 % interval.

    Args:
        hits: bool (Q,), whether the first photo is right.
        members: bool (Q,), with at least one.
    """
    total, right = int(members.sum()), int(hits[members].sum())
    low, high = interval(right, total)
    return {"captions": total, "R1": 100 * right / total, "low": low, "high": high}


def by_attribute(notes: Sequence[dict], told: Sequence[tuple[int, int]], **first) -> list[dict]:
    """R1 of captions that tell an attribute, and how often their first photo has another value.

    Args:
        notes: annotations of drawn people, one a photo: "attributes" and, for each of the photo's
            captions, the names in "mentioned".
        told: photo and number of the caption there, one a query.
        first: `hits` bool (Q,), whether the first photo is right, and `photos` (Q,), its row.

    Returns:
        One row an attribute that FEWEST captions tell: "attribute", what `group` gives, and
        "other_value", percent; the most often wrong first.
    """
    mentioned = [notes[photo]["mentioned"][caption] for photo, caption in told]
    rows = []
    for name in notes[0]["attributes"]:
        members = np.array([name in names for names in mentioned])
        if members.sum() < FEWEST:
            continue
        value = np.array([notes[photo]["attributes"][name] for photo, _ in told])
        shown = np.array([notes[photo]["attributes"][name] for photo in first["photos"]])
        wrong = 100 * float(np.mean(value[members] != shown[members]))
        rows.append({"attribute": name, **group(first["hits"], members), "other_value": wrong})
    return sorted(rows, key=lambda row: (-row["other_value"], row["attribute"]))


def by_length(captions: Sequence[str], hits: np.ndarray) -> list[dict]:
    """R1 of a quarter of the captions each, by their number of words: "least" to "most" words."""
    lengths = np.array([len(_WORD.findall(caption)) for caption in captions])
    edges = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75], method="lower"))
    quarter = np.searchsorted(edges, lengths, side="left")
    rows = []
    for number in np.unique(quarter):
        members = quarter == number
        least, most = int(lengths[members].min()), int(lengths[members].max())
        rows.append({"least": least, "most": most, **group(hits, members)})
    return rows


def by_word(words: Sequence[Sequence[str]], hits: np.ndarray, *, most: int = 16) -> list[dict]:
    """R1 of captions with a word, for the `most` words that most captions have; the lowest first.

    A word of all captions tells nothing and is left out.
    """
    sets = [set(found) for found in words]
    counted = Counter(word for found in sets for word in found)
    often = [(count, word) for word, count in counted.items() if FEWEST <= count < 0.95 * len(sets)]
    rows = []
    for _, word in sorted(often, key=lambda pair: (-pair[0], pair[1]))[:most]:
        members = np.array([word in found for found in sets])
        rows.append({"word": word, **group(hits, members)})
    return sorted(rows, key=lambda row: (row["R1"], row["word"]))


def thinned(xs: Sequence[float], ys: Sequence[float | None], most: int = 400) -> tuple[list, list]:
    """At most about `most` points of a line: of each stretch its lowest and its highest.

    None, where a value was not finite, stays a gap.
    """
    if len(xs) <= most:
        return list(xs), list(ys)
    kept = set()
    for part in np.array_split(np.arange(len(xs)), most // 2):
        known = [i for i in part if ys[i] is not None]
        kept |= (
            {min(known, key=lambda i: ys[i]), max(known, key=lambda i: ys[i])}
            if known
            else {part[0]}
        )
        kept |= {i for i in part if ys[i] is None}
    order = sorted(map(int, kept))
    return [xs[i] for i in order], [ys[i] for i in order]
