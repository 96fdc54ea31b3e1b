"""`ivt_jax.Gallery`: photos of a folder, encoded once and searched by sentence or example."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ivt_jax.errors import UserError
from ivt_jax.retrieval import approximate
from ivt_jax.retrieval.folders import folders_of, rows_below
from ivt_jax.retrieval.gallery_files import (
    POINTER,
    SKIPPED,
    Facts,
    Photos,
    faiss_name,
    read_gallery,
)
from ivt_jax.retrieval.nearest import nearest
from ivt_jax.retrieval.options import ENGINES, RERANK
from ivt_jax.retrieval.photos import read
from ivt_jax.retrieval.rerank import CANDIDATES, k_reciprocal

if TYPE_CHECKING:
    from ivt_jax.inference import Retriever

# The share of an excluded sentence that is subtracted from a query. On drawn people, "either of two
# colours" without one of them gives that one in 42 % of the first ten at 0, 9 at 0.5, 1 at 0.75.
EXCLUSION = 0.75

Query = str | Path | Image.Image | np.ndarray


class Gallery:
    """G photos with their embeddings; made by `build` or `open`. Safe to search from threads.

    Attributes:
      folder: of the gallery's own files.
      root: of the photos.
      paths: list of G str, relative to `root`, with "/".
      ids: int64 (G,), rising; one belongs to one photo with one content and is never given again.
      embeddings: float32 (G, D), L2-normalised, memory-mapped.
    """

    def __init__(self, folder: Path, state: tuple[Facts, Photos, np.ndarray], model):
        self.folder = folder
        self.facts, self._photos, self.embeddings = state
        self.root = Path(self.facts.root)
        self.paths, self.ids = self._photos.paths, self._photos.ids
        self._model, self._index = model, None
        self._below: dict[str, np.ndarray] = {}  # folder -> its rows, once asked for
        self._lock = threading.Lock()
        # One product uses all cores; several at once keep BLAS threads waiting for each other.
        self._searching = threading.Lock()

    @classmethod
    def build(
        cls, model: Retriever | str | Path, folder: str | Path, out: str | Path, *, threads: int = 0
    ) -> Gallery:
        """Encodes the photos below `folder` into the gallery `out`, or what changed there since.

        `model` is what `ivt_jax.load` returns or takes; `threads` read and decode, 0 = one for
        each CPU core. Raises UserError as `indexing.build_gallery` does.
        """
        from ivt_jax.retrieval.indexing import build_gallery

        model = _loaded(model)
        build_gallery(model, Path(folder), Path(out), threads=threads)
        return cls.open(out, model=model)

    @classmethod
    def open(cls, folder: str | Path, *, model: Retriever | str | Path | None = None) -> Gallery:
        """Opens a gallery; reads no photo, and no weights before they are needed.

        `model` is what `ivt_jax.load` returns or takes; None = the one that made the gallery.
        Raises UserError: no gallery there, a damaged one, or another model than that.
        """
        gallery = cls(Path(folder), read_gallery(Path(folder)), None)
        if model is not None:
            gallery._model = gallery._checked(_loaded(model, dtype=gallery.facts.dtype))
        return gallery

    def __len__(self) -> int:
        """G, the number of photos."""
        return len(self.paths)

    @property
    def model(self) -> Retriever:
        """The model of the gallery, loaded when first asked for.

        Raises UserError if it is not where it was, or holds other weights now.
        """
        with self._lock:
            if self._model is None:
                self._model = self._checked(self._load())
            return self._model

    @property
    def stale(self) -> bool:
        """Whether the gallery was indexed anew since it was opened: open it again then."""
        try:
            now = json.loads((self.folder / POINTER).read_text("utf-8"))
            return now["generation"] != self.facts.generation
        except (OSError, ValueError, KeyError):
            return True

    @property
    def folders(self) -> list[str]:
        """Every folder with photos in it or below it, as `paths` name it, in order."""
        return folders_of(self.paths)

    def rows(self, folder: str) -> np.ndarray:
        """Rows int64 (n,) of the photos in a folder or below it; UserError if there are none."""
        if folder not in self._below:
            self._below[folder] = rows_below(self.paths, folder)
        return self._below[folder]

    def skipped(self) -> list[dict[str, Any]]:
        """Files of the folder that are not in the gallery: path, reason, detail."""
        lines = (self.folder / SKIPPED).read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def row(self, number: int) -> int:
        """The row of an id; KeyError if no photo has it (any more)."""
        row = int(np.searchsorted(self.ids, number))
        if row == len(self.ids) or self.ids[row] != number:
            raise KeyError(number)
        return row

    def read(self, row: int) -> bytes:
        """The file of a photo as it is now.

        Raises ImageError if it is gone ("unreadable") or a link that leads out of the root.
        """
        return read(self.root, self.paths[row])

    def search(
        self,
        query: Query | Sequence[Query],
        k: int = 10,
        *,
        without: str | Sequence[str] = (),
        folder: str = "",
        rerank: str = "none",
        engine: str = "auto",
    ) -> list[tuple[str, float]]:
        """The k best photos as (path, score), best first; arguments as in `rank`."""
        how = {"folder": folder, "rerank": rerank, "engine": engine}
        rows, scores = self.rank(query, k, without=without, **how)
        pairs = zip(rows.tolist(), scores.tolist(), strict=True)
        return [(str(self.root / self.paths[row]), score) for row, score in pairs]

    def rank(
        self,
        query: Query | Sequence[Query],
        k: int = 10,
        *,
        without: str | Sequence[str] = (),
        folder: str = "",
        rerank: str = "none",
        engine: str = "auto",
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best photos.

        Args:
          query: a sentence (str), an example photo (Path or PIL image), an embedding (D,), or a
            list of these, which count alike.
          k: photos wanted.
          without: sentences that say what must not be there; see `embed`.
          folder: one of `folders`, to search only there and below; "" = everywhere.
          rerank: "none" | "reciprocal", which see.
          engine: "exact" | "faiss": the index that `index --engine=faiss` made | "auto": faiss if
            there is an index and a million photos.

        Returns:
          Rows int64 (k,) and scores float32 (k,), falling. Scores are cosines, or after
          re-ranking one minus a distance; equal ones come in the order of the gallery.

        Raises:
          UserError: an empty query, k below 1, an unknown choice or folder; ImageError: no photo.
        """
        if k < 1:
            raise UserError(f"k is {k}; ask for at least 1 photo")
        if rerank not in RERANK:
            raise UserError(f"rerank is {rerank!r}; choose one of {', '.join(RERANK)}")
        embedding = self.embed(query, without=without)
        wanted = max(k, CANDIDATES) if rerank == "reciprocal" else k
        rows, scores = self.nearest(embedding, wanted, folder=folder, engine=engine)
        if rerank == "reciprocal":
            first, photos = rows[:CANDIDATES], self.embeddings[rows[:CANDIDATES]]  # (M, D)
            better = k_reciprocal(photos @ photos.T, scores[:CANDIDATES])
            order = np.argsort(-better, kind="stable")
            rows, scores = first[order], better[order]
        return rows[:k], scores[:k]

    def nearest(
        self, embedding: np.ndarray, k: int, *, folder: str = "", engine: str = "exact"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 (k,) and cosines float32 (k,) nearest to an embedding (D,); see `rank`.

        Photos of one folder are compared exactly, whatever the engine.
        """
        if engine not in ENGINES:
            raise UserError(f"engine is {engine!r}; choose one of {', '.join(ENGINES)}")
        if folder:
            with self._searching:
                return nearest(self.embeddings, embedding, k=k, rows=self.rows(folder))
        indexed = (self.folder / faiss_name(self.facts)).is_file() and approximate.installed()
        if engine == "auto":
            engine = "faiss" if indexed and len(self) >= approximate.FEWEST else "exact"
        if engine == "exact":
            with self._searching:
                return nearest(self.embeddings, embedding, k=k)
        return approximate.search(self._faiss_index(), self.embeddings, embedding, k=k)

    def index_faiss(self) -> tuple[float, int]:
        """Makes the FAISS index of this state; returns its recall and what `build` of it tells.

        Raises UserError if FAISS (the extra `faiss`) is not installed.
        """
        return approximate.build(self.embeddings, self.folder / faiss_name(self.facts))

    def _faiss_index(self):
        file = self.folder / faiss_name(self.facts)
        with self._lock:
            if self._index is None:
                if not file.is_file():
                    raise UserError(
                        f"the gallery {self.folder} has no FAISS index; make one with "
                        "`python -m ivt_jax index ... --engine=faiss`"
                    )
                self._index = approximate.open_index(file)
            return self._index

    def embed(
        self, query: Query | Sequence[Query], *, without: str | Sequence[str] = ()
    ) -> np.ndarray:
        """The embedding float32 (D,) of a query, L2-normalised; arguments as in `rank`.

        Several queries are averaged. What must not be there is averaged as well, and EXCLUSION of
        it is subtracted.
        """
        queries = [query] if isinstance(query, Query) else list(query)
        excluded = [without] if isinstance(without, str) else list(without)
        if not queries:
            raise UserError("there is nothing to search for; give a sentence or a photo")
        mean = np.mean([self._embed(one) for one in queries], axis=0)
        if excluded:
            unwanted = np.mean([self._embed(one) for one in excluded], axis=0)
            mean = _unit(mean) - EXCLUSION * _unit(unwanted)
        return _unit(mean).astype(np.float32)

    def _embed(self, query: Query) -> np.ndarray:
        width = self.facts.width
        if isinstance(query, str):
            if not query.strip():
                raise UserError("the sentence to search for is empty")
            return self.model.encode_text([query])[0]
        if isinstance(query, Path | Image.Image):
            return self.model.encode_image([query])[0]
        embedding = np.asarray(query, np.float32)
        if embedding.shape != (width,) or not np.isfinite(embedding).all():
            raise UserError(
                f"an embedding to search for is ({width},) of finite numbers, not of shape "
                f"{embedding.shape}"
            )
        return _unit(embedding)

    def _load(self) -> Retriever:
        from ivt_jax.inference import load

        facts = self.facts
        if not facts.model:
            raise UserError(
                f"the gallery {self.folder} was made with a model in memory: name the model, "
                "--run=RUN or Gallery.open(folder, model=...)"
            )
        try:
            vocabulary = facts.vocabulary or None
            return load(facts.model, facts.step, vocabulary=vocabulary, dtype=facts.dtype)
        except UserError as error:
            raise UserError(
                f"the gallery {self.folder} was made with {facts.model}, step {facts.step}, which "
                f"cannot be loaded: {error}. If it has moved, name it: --run=RUN",
                exit_code=error.exit_code,
            ) from error

    def _checked(self, model: Retriever) -> Retriever:
        from ivt_jax.retrieval.fingerprint import fingerprint

        if fingerprint(model) != self.facts.fingerprint:
            made, facts = self.facts.model or "?", self.facts
            raise UserError(
                f"the gallery {self.folder} was made with another model ({made}, step "
                f"{facts.step}, {facts.dtype}) than {model.path or 'this one'}, step {model.step}, "
                f"{model.dtype}, holds. Search with that model, or index the photos into a new "
                "gallery"
            )
        return model


def _loaded(model: Retriever | str | Path, *, dtype: str = "") -> Retriever:
    from ivt_jax.inference import load

    return load(model, dtype=dtype) if isinstance(model, str | Path) else model


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
