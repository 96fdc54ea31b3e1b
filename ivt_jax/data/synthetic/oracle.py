"""How well a perfect reader could retrieve: rankings from annotations alone."""

import json

import numpy as np

from ivt_jax.data.synthetic.records import PeopleRecords


def oracle_scores(records: PeopleRecords) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of a reader that knows every attribute a caption tells and an image shows.

    Returns scores float64 (Q, G): over the told attributes, agreement counts 1, what the image
    hides 0.5 and disagreement 0, and each told fact about the view 0.1; then the identities of the
    queries (Q,) and the gallery (G,). A query is a caption, the gallery every image.
    """
    described = [records.describe(i) for i in range(len(records))]
    notes = [json.loads(record["annotation"]) for record in described]
    identities = np.array([record["identity"] for record in described])
    names = sorted({name for note in notes for name in note["attributes"]})
    values = sorted({v for note in notes for v in note["attributes"].values()})
    codes = {value: code for code, value in enumerate(values)}
    true = np.array([[codes[note["attributes"][n]] for n in names] for note in notes])  # (G, A)
    absent = np.array(
        [[note["attributes"][n] in ("none", "plain") for n in names] for note in notes]
    )
    shown = np.array([[n in note["visible"] for n in names] for note in notes]) | absent
    views = {
        "facing": np.array([_direction(note["facing"]) for note in notes]),
        "place": np.array([note["place"] for note in notes]),
        "activity": np.array([note["activity"] for note in notes]),
    }
    rows, query_identities = [], []
    for g, note in enumerate(notes):
        for told, remarks in zip(note["mentioned"], note["remarks"], strict=True):
            columns = [names.index(n) for n in told]
            same = np.where(shown[:, columns], true[:, columns] == true[g, columns], 0.5)
            agreeing = sum(
                (views[name] == views[name][g] for name in remarks), np.zeros(len(notes))
            )
            rows.append(same.sum(axis=1) + 0.1 * agreeing)
            query_identities.append(identities[g])
    return np.array(rows), np.array(query_identities), identities


def _direction(facing: str) -> str:
    """A facing as captions tell it, which never distinguish left from right."""
    return "profile" if facing in ("left", "right") else facing


def ceiling(records: PeopleRecords) -> float:
    """R1 in percent that `oracle_scores` reaches when ties are broken at random."""
    scores, query_identities, gallery_identities = oracle_scores(records)
    best = scores >= scores.max(axis=1, keepdims=True) - 1e-9  # (Q, G)
    right = best & (query_identities[:, None] == gallery_identities[None, :])
    return float(100 * np.mean(right.sum(axis=1) / best.sum(axis=1)))
