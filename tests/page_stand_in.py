"""A gallery of drawn people and a model that knows colours only: the page's tests need no JAX.

`python -m tests.page_stand_in PORT GALLERY` serves the gallery in FOLDER, as a process of its own.
"""

import json
import re
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ivt_jax.data import synthetic
from ivt_jax.data.synthetic.attributes import COLOURS
from ivt_jax.retrieval.gallery import Gallery
from ivt_jax.retrieval.gallery_files import Facts, Photos, write_gallery
from ivt_jax.retrieval.page.engine import Engine

SIZE = (96, 48)
PALETTE = np.array(list(COLOURS.values()), np.float32)  # (11, 3)
WIDTH = len(PALETTE) + 8  # colours, and room for what has none


class ColourModel:
    """A photo is the share of each colour on its chest; a sentence is its colour words."""

    def encode_image(self, images) -> np.ndarray:
        return np.stack([_unit(self._chest(image)) for image in images])

    def encode_text(self, captions) -> np.ndarray:
        return np.stack([_unit(self._words(caption)) for caption in captions])

    def _chest(self, image: Image.Image) -> np.ndarray:
        pixels = np.asarray(image.convert("RGB").resize((24, 64)), np.float32)[17:28, 9:15]
        pixels = pixels.reshape(-1, 1, 3) / np.maximum(pixels.max(initial=1), 1) * 255
        nearest = np.linalg.norm(pixels - PALETTE, axis=-1).argmin(axis=-1)
        shares = np.bincount(nearest, minlength=len(PALETTE)) / len(nearest)
        return np.concatenate([shares, np.full(8, 0.05)])

    def _words(self, caption: str) -> np.ndarray:
        found = [word in caption.lower().split() for word in COLOURS]
        rest = np.random.default_rng(zlib.crc32(caption.encode())).normal(size=8)
        return np.concatenate([found, 0.1 * rest]).astype(np.float32)


def write(folder: Path, photos: int) -> Path:
    """Photos of drawn people, one in five in a red top, and their gallery; returns the gallery."""
    records = synthetic.people_records("test")
    tops = [_annotation(records, i)["attributes"]["upper_colour"] for i in range(len(records))]
    red = [i for i, colour in enumerate(tops) if colour == "red"][: photos // 5]
    others = [i for i, colour in enumerate(tops) if colour not in ("red", "orange", "pink")]
    root = folder / "photos"
    root.mkdir(parents=True)
    for number, i in enumerate(sorted(red + others[: photos - len(red)])):
        (root / f"{number:03d} {tops[i]}.jpg").write_bytes(records[i]["image"])
    return write_index(folder, sorted(path.name for path in root.iterdir()))


def write_index(folder: Path, names: list[str]) -> Path:
    """The gallery of the photos with these names in folder/photos."""
    root, out = folder / "photos", folder / "gallery"
    out.mkdir(exist_ok=True)
    model, known = ColourModel(), {}
    for name in names:
        inode = (root / name).stat().st_ino
        if inode not in known:
            known[inode] = model.encode_image([Image.open(root / name)])[0]
    embeddings = np.stack([known[(root / name).stat().st_ino] for name in names])
    count = len(names)
    numbers = np.arange(count, dtype=np.int64)
    photos = Photos(numbers + 7, names, numbers, numbers, np.zeros((count, 32), np.uint8))
    facts = Facts(str(root), "0", "", 0, "", WIDTH, "", "", count + 7, generation=0)
    old = np.zeros((0, WIDTH), np.float32)
    write_gallery(out, facts, photos, old=old, new=embeddings.astype(np.float32), rows=numbers)
    (out / "skipped.jsonl").write_text("")
    return out


def open_engine(out: Path) -> Engine:
    """The gallery, searched by the colour model."""
    gallery = Gallery.open(out)
    gallery._model = ColourModel()  # pyright: ignore[reportAttributeAccessIssue]

    def explain(image, sentence):
        found = list(re.finditer(r"\S+", sentence))
        maps = np.zeros((len(found), 12, 6))
        for i in range(len(found)):
            maps[i, (3 * i) % 12 : (3 * i) % 12 + 3] = 1
        return SimpleNamespace(
            words=[word.group() for word in found],
            spans=[word.span() for word in found],
            maps=maps,
            word_scores=np.array([0.3 if word.group() in COLOURS else -0.05 for word in found]),
            score=0.5,
        )

    def notes(sentence):
        return ["The model does not know “giraffe”."] if "giraffe" in sentence else []

    return Engine("colours", gallery, SIZE, explain, notes)  # pyright: ignore[reportArgumentType]


def _annotation(records, i: int) -> dict:
    return json.loads(records.describe(i)["annotation"])


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)


if __name__ == "__main__":
    from ivt_jax.retrieval.page.running import run_server
    from ivt_jax.retrieval.page.server import LOCAL, listen

    run_server(
        lambda: open_engine(Path(sys.argv[2])), listen("127.0.0.1", int(sys.argv[1])), hosts=LOCAL
    )
