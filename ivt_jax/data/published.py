"""What is published of the datasets: counts of every split, and other counts that are about.

Sources: the dataset tables in the training logs of RDE (CUHK-PEDES, ICFG-PEDES, RSTPReid), the
loaders of IRRA, SSAN and IVT for what they assert or remark, and the table of pretraining data
in the ALBEF paper with the pairs that IVT's code counts (caption corpora).
"""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """Of one split."""

    identities: int
    images: int
    captions: int


class OtherCount(NamedTuple):
    """Another count that may be met in a copy of a dataset, and why.

    verdict: "same": the content is that of the published files | "other": it is not.
    """

    split: str
    field: str
    count: int
    verdict: str
    meaning: str


class Published(NamedTuple):
    """What a whole copy of one dataset has.

    Attributes:
        splits: counts by split.
        counting: "exact" | "about": half to 1.2 times as many are usual, as links die.
        first_identity: of the train split, whose identities have no gaps; None if unknown.
        captions_per_image: at least so many.
        other_counts: known to be met.
    """

    splits: dict[str, Counts]
    counting: str = "exact"
    first_identity: int | None = None
    captions_per_image: int = 1
    other_counts: tuple[OtherCount, ...] = ()


def _corpus(images: int, captions: int) -> Published:
    return Published({"train": Counts(images, images, captions)}, counting="about")


PUBLISHED = {
    # 9 images have more than two captions: 18 surplus captions in train, 2 in val, 8 in test.
    "cuhk_pedes": Published(
        {
            "train": Counts(11_003, 34_054, 68_126),
            "val": Counts(1_000, 3_078, 6_158),
            "test": Counts(1_000, 3_074, 6_156),
        },
        first_identity=1,
        captions_per_image=2,
        other_counts=(
            OtherCount(
                *("train", "captions", 68_108, "other"),
                "twice the number of images, as some papers print it: the 18 surplus captions of "
                "images with more than two are missing",
            ),
        ),
    ),
    "icfg_pedes": Published(
        {"train": Counts(3_102, 34_674, 34_674), "test": Counts(1_000, 19_848, 19_848)},
        first_identity=0,
        other_counts=(
            OtherCount(
                *("train", "images", 34_673, "same"),
                "one image stands twice in the published file, each time with a caption; it is "
                "stored once with both",
            ),
        ),
    ),
    "rstpreid": Published(
        {
            "train": Counts(3_701, 18_505, 37_010),
            "val": Counts(200, 1_000, 2_000),
            "test": Counts(200, 1_000, 2_000),
        },
        first_identity=0,
        captions_per_image=2,
        other_counts=(
            OtherCount(
                *("train", "captions", 37_004, "other"),
                "the number that IVT's own processed file is said to hold",
            ),
        ),
    ),
    "cc3m": _corpus(2_540_000, 2_540_000),
    "sbu": _corpus(857_000, 857_000),
    "coco": _corpus(113_000, 567_000),
    "vg": _corpus(100_000, 769_000),
}
