"""Records of drawn pedestrians: any one is made from its numbers alone, in any order or process."""

import json
from dataclasses import asdict
from typing import Any

from ivt_jax.data.synthetic import scene_words, words
from ivt_jax.data.synthetic.attributes import group_of, person_attributes, visible_attributes
from ivt_jax.data.synthetic.captions import person_caption
from ivt_jax.data.synthetic.drawing import generator
from ivt_jax.data.synthetic.people import View, draw_view, render_person
from ivt_jax.data.synthetic.scenes import draw_scene, render_scene, scene_caption

DRAWING = 2  # raised with every change of what is drawn, so that older data is told apart
SPLITS = ("train", "val", "test")
IDENTITIES = {"train": 3000, "val": 60, "test": 90}
SCENES = {"train": 4000, "val": 200}
CAPTIONS = 2  # of each image
SPLIT_STEP = 1_000_000  # identities of a split start at its number times this


def split_number(split: str, known: tuple[str, ...] = SPLITS) -> int:
    """The number of a split; ValueError for an unknown name."""
    if split not in known:
        raise ValueError(f"unknown split {split!r}; the drawn data has {', '.join(known)}")
    return SPLITS.index(split)


class PeopleRecords:
    """The images of a split, grouped by identity: a sequence of records made when asked for."""

    def __init__(self, split: str, *, seed: int, identities: int):
        self.split, self.seed, self.number = split, seed, split_number(split)
        if not 0 < identities <= SPLIT_STEP:
            raise ValueError(f"identities must be in 1..{SPLIT_STEP}, not {identities}")
        self._index = [
            (identity, view)
            for identity in range(identities)
            for view in range(int(generator(seed, self.number, 0, identity).integers(2, 6)))
        ]

    def __len__(self) -> int:
        """The number of images."""
        return len(self._index)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """The record of image i; IndexError past the end."""
        record, annotation, attributes, view = self._plan(i)
        identity, number = self._index[i]
        record["image"], annotation["boxes"] = render_person(
            attributes,
            view,
            person=(self.seed, self.number, 3, group_of(identity)[0]),
            image=(self.seed, self.number, 4, identity, number),
        )
        return record | {"annotation": json.dumps(annotation)}

    def describe(self, i: int) -> dict[str, Any]:
        """The record of image i without "image" and boxes, which is much faster."""
        record, annotation, _, _ = self._plan(i)
        return record | {"annotation": json.dumps(annotation)}

    def _plan(self, i: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, str], View]:
        identity, number = self._index[i]
        attributes = person_attributes(identity, seed=self.seed, split=self.number)
        rng = generator(self.seed, self.number, 2, identity, number)
        view = draw_view(rng)
        visible = visible_attributes(attributes, facing=view.facing, hidden_feet=view.hidden_feet)
        told = [
            person_caption(
                attributes,
                visible,
                facing=view.facing,
                activity=view.activity,
                place=view.place,
                rng=rng,
            )
            for _ in range(CAPTIONS)
        ]
        annotation = {
            "attributes": attributes,
            "visible": visible,
            "facing": view.facing,
            "mentioned": [names for _, names, _ in told],
            "place": view.place,
            "activity": view.activity,
            "remarks": [names for _, _, names in told],
        }
        record = {
            "captions": [caption for caption, _, _ in told],
            "identity": self.number * SPLIT_STEP + identity,
            "source": "synthetic_people",
            "key": f"{self.split}/{identity:06d}/{number}",
        }
        return record, annotation, attributes, view


def people_records(split: str, *, seed: int = 0, identities: int | None = None) -> PeopleRecords:
    """Drawn pedestrians of "train", "val" or "test" (3000, 60 and 90 identities by default).

    Records have image (JPEG bytes, 192x72), captions (two), identity (int, unique over splits),
    source, key and annotation (JSON: attributes, visible, facing, place, activity, mentioned and
    remarks for each caption, boxes of the parts as x0, y0, x1, y1 in 0..1). Each is a function
    of (seed, split, identity, view).
    Raises ValueError for an unknown split or a bad number of identities.
    """
    split_number(split)
    count = IDENTITIES[split] if identities is None else identities
    return PeopleRecords(split, seed=seed, identities=count)


class SceneRecords:
    """The scenes of a split: a sequence of records made when asked for."""

    def __init__(self, split: str, *, seed: int, scenes: int):
        self.split, self.seed, self.number = split, seed, split_number(split, tuple(SCENES))
        if not 0 < scenes <= SPLIT_STEP:
            raise ValueError(f"scenes must be in 1..{SPLIT_STEP}, not {scenes}")
        self._scenes = scenes

    def __len__(self) -> int:
        """The number of scenes."""
        return self._scenes

    def __getitem__(self, i: int) -> dict[str, Any]:
        """The record of scene i; IndexError past the end."""
        if not -self._scenes <= i < self._scenes:
            raise IndexError(f"scene {i} of {self._scenes}")
        i %= self._scenes
        rng = generator(self.seed, self.number, 5, i)
        scene = draw_scene(rng)
        count = 1 + int(rng.random() < 0.5)
        annotation = {
            "place": scene.place,
            "layout": scene.layout,
            "items": [asdict(item) for item in scene.items],
            "outfit": scene.outfit,
        }
        return {
            "image": render_scene(scene, generator(self.seed, self.number, 6, i)),
            "captions": [scene_caption(scene, rng) for _ in range(count)],
            "identity": self.number * SPLIT_STEP + i,
            "source": "synthetic_scenes",
            "key": f"{self.split}/{i:06d}",
            "annotation": json.dumps(annotation),
        }


def scene_records(split: str, *, seed: int = 0, scenes: int | None = None) -> SceneRecords:
    """Drawn scenes of "train" or "val" (4000 and 200 by default), one or two captions each.

    Same fields as `people_records`; identity is the record's own number, the annotation tells
    place, layout, items and outfit. Raises ValueError for an unknown split or a bad number.
    """
    split_number(split, tuple(SCENES))
    return SceneRecords(split, seed=seed, scenes=SCENES[split] if scenes is None else scenes)


def vocabulary() -> list[str]:
    """BERT-style WordPiece vocabulary of both grammars: every word of a caption is whole in it.

    [PAD], [UNK], [CLS], [SEP], [MASK] are 0 to 4; then characters, ##characters and sorted words.
    """
    return words.wordpiece_vocabulary(
        *(
            value
            for module in (words, scene_words)
            for name, value in vars(module).items()
            if name.isupper() and name != "SPECIAL_TOKENS"
        )
    )
