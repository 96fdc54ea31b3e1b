"""The web application: the page's files, its API, and an answer in words for every refusal."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import ivt_jax
from ivt_jax.data.images import ImageError
from ivt_jax.errors import UserError
from ivt_jax.retrieval.page.decoder import UploadError, decode_upload
from ivt_jax.retrieval.page.desk import Busy, Desk, NotReady
from ivt_jax.retrieval.page.engine import Answers, Ranking
from ivt_jax.retrieval.page.safety import Safety

LONGEST_QUERY = 500  # characters
LONGEST_PATH = 4096  # characters
MOST_RESULTS = 200
MOST_FOLDERS = 300  # named to the page
MOST_EXCLUSIONS = 5
UPLOAD_BYTES = 10 * 2**20
UPLOAD_SECONDS = 30.0
UPLOADS = 4  # received and decoded at the same time
FILES = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/kit.js": ("kit.js", "text/javascript"),
    "/theme.js": ("theme.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/photos.js": ("photos.js", "text/javascript"),
    "/docs.js": ("docs.js", "text/javascript"),
}

Sentence = Annotated[str, Query(max_length=LONGEST_QUERY)]
Exclusions = Annotated[
    list[Annotated[str, Query(max_length=LONGEST_QUERY)]],
    Query(max_length=MOST_EXCLUSIONS, description="what the photos shall not show"),
]
Folder = Annotated[str, Query(max_length=LONGEST_PATH, description="one of /api/folders; or all")]
Results = Annotated[int, Query(ge=1, le=MOST_RESULTS, description="photos to return")]
PhotoId = Annotated[int, Path(ge=0, description="id of a photo of the gallery")]


class Status(BaseModel):
    """What the page shows before any search."""

    state: Literal["loading", "ready", "failed"]
    message: str
    photos: int
    model: str
    aspect: float
    missing: int
    new: int


class Result(BaseModel):
    """One photo found: its number, its path in the gallery and its cosine similarity."""

    id: int
    path: str
    score: float


class Histogram(BaseModel):
    """How many of all photos score what, in equal steps from low to high."""

    low: float
    high: float
    counts: list[int]


class Found(BaseModel):
    """The best photos first. `floor` is what unrelated sentences reach; `notes` are for people."""

    results: list[Result]
    total: int
    histogram: Histogram
    floor: float | None
    notes: list[str]
    seconds: float


class Words(BaseModel):
    """Why a photo scores as it does: for each word, what it adds and where the model looks.

    `spans` are where the words stand in the sentence, in characters. `maps` are (words, rows *
    columns), row by row, from 0 to 1.
    """

    words: list[str]
    spans: list[tuple[int, int]]
    adds: list[float]
    score: float
    rows: int
    columns: int
    maps: list[list[float]]


def create_app(desk: Desk, *, hosts: Sequence[str]) -> FastAPI:
    """The application for one desk; requests for other hosts than these are refused."""
    app = FastAPI(
        title="ivt_jax search",
        version=ivt_jax.__version__,
        description="Search a gallery of photos with a sentence or an example photo.",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(Safety)  # outermost, so that refusals carry the headers too
    _add_refusals(app)
    _add_files(app)
    _add_status(app, desk)
    _add_search(app, desk)
    _add_upload(app, desk)
    _add_photos(app, desk)
    return app


def _add_refusals(app: FastAPI) -> None:
    def refuse(status: int, sentence: str, **headers: str) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers=headers)

    @app.exception_handler(StarletteHTTPException)
    async def http(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return refuse(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors()]
        return refuse(422, "; ".join(faults))

    @app.exception_handler(Busy)
    async def busy(_: Request, error: Busy) -> JSONResponse:
        sentence = "Too many searches are waiting. Try again in a moment."
        return refuse(503, sentence, **{"Retry-After": "1"})

    @app.exception_handler(NotReady)
    async def not_ready(_: Request, error: NotReady) -> JSONResponse:
        return refuse(503, str(error), **{"Retry-After": "1"})

    @app.exception_handler(UserError)
    async def fault(_: Request, error: UserError) -> JSONResponse:
        return refuse(422, str(error))

    @app.exception_handler(ImageError)
    async def gone(_: Request, error: ImageError) -> JSONResponse:
        return refuse(410, f"This photo cannot be shown any more ({error.reason}).")


def _add_files(app: FastAPI) -> None:
    folder = resources.files("ivt_jax.retrieval.page") / "static"

    def add(route: str, name: str, kind: str) -> None:
        content = (folder / name).read_bytes()

        @app.get(route, include_in_schema=False)
        async def file() -> Response:
            return Response(content, media_type=kind)

    for route, (name, kind) in FILES.items():
        add(route, name, kind)


def _add_status(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/status")
    async def status() -> Status:
        """Whether the gallery is open, how large it is, and whether its folder has changed."""
        desk.look_again()
        engine = desk.engine
        missing, new = desk.differences
        return Status(
            state=desk.state,
            message=desk.message,
            photos=len(engine.gallery) if engine else 0,
            model=engine.name if engine else "",
            aspect=desk.aspect,
            missing=missing,
            new=new,
        )

    @app.get("/api/folders")
    async def folders() -> list[str]:
        """The uppermost folders with photos, 300 at most, that a search can be limited to."""
        answers, _ = desk.opened()
        return answers.folders(most=MOST_FOLDERS)


def _add_search(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/search")
    async def search(
        request: Request,
        q: Sentence | None = None,
        like: Annotated[int | None, Query(ge=0, description="id of an example photo")] = None,
        without: Exclusions = [],  # noqa: B006 - FastAPI copies it
        folder: Folder = "",
        k: Results = 48,
    ) -> Found:
        """The photos that a sentence (`q`) describes best, or that are most like a photo."""
        answers, _ = desk.opened()
        sentence, unwanted = (q or "").strip(), _texts(without)
        if bool(sentence) == (like is not None):
            raise HTTPException(422, "Write a sentence (q), or name the id of a photo (like).")
        row = -1 if like is None else _row(answers, like)

        def work() -> Found:
            began = time.perf_counter()
            if like is None:
                query = answers.sentence(sentence, unwanted)
            else:
                query = answers.photo(row, unwanted)
            return _found(answers, answers.rank(query, k=k, folder=folder), sentence, began)

        return await _while_there(request, desk.work(work))


def _add_upload(app: FastAPI, desk: Desk) -> None:
    slots = asyncio.Semaphore(UPLOADS)
    body = {"image/*": {"schema": {"type": "string", "format": "binary"}}}

    @app.post("/api/search", openapi_extra={"requestBody": {"required": True, "content": body}})
    async def search_by_image(
        request: Request,
        without: Exclusions = [],  # noqa: B006
        folder: Folder = "",
        k: Results = 48,
    ) -> Found:
        """The photos most like an uploaded JPEG, PNG or WebP (the request's body, 10 MB at most).

        The upload is decoded in a process of its own, compared, and forgotten.
        """
        answers, _ = desk.opened()
        if slots.locked():
            raise Busy
        async with slots:
            data = await _receive(request)
            try:
                size = answers.engine.image_size
                pixels = await asyncio.to_thread(decode_upload, data, size)
            except UploadError as error:
                raise HTTPException(422, f"This image cannot be used: {error}.") from error

        def work() -> Found:
            began = time.perf_counter()
            query = answers.image(Image.fromarray(pixels), _texts(without))
            return _found(answers, answers.rank(query, k=k, folder=folder), "", began)

        return await _while_there(request, desk.work(work))


def _add_photos(app: FastAPI, desk: Desk) -> None:
    picture: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}}

    @app.get("/api/photos/{id}/{size}", response_class=Response, responses=picture)
    async def photo(id: PhotoId, size: Literal["small", "large"]) -> Response:
        """A photo of the gallery as JPEG without metadata, 360 or 1280 pixels at most a side."""
        answers, thumbnails = desk.opened()
        made = await asyncio.to_thread(thumbnails.jpeg, _row(answers, id), size)
        return Response(made, media_type="image/jpeg")

    @app.get("/api/words/{id}")
    async def words(request: Request, id: PhotoId, q: Sentence) -> Words:
        """What each word of a sentence adds to the score of a photo, and where it finds it."""
        answers, thumbnails = desk.opened()
        image = await asyncio.to_thread(thumbnails.image, _row(answers, id))
        return await _while_there(request, desk.work(_words, answers, image, q, by="explain"))


def _words(answers: Answers, image: Image.Image, sentence: str) -> Words:
    found = answers.engine.explain(image, sentence)
    count, rows, columns = found.maps.shape
    largest = found.maps.max(axis=(1, 2), keepdims=True)
    # A word that is hardly seen anywhere stays dim.
    ceiling = np.maximum(largest, max(0.2 * float(largest.max()), 1e-12))
    scaled = np.clip(found.maps / ceiling, 0, 1).reshape(count, -1)
    return Words(
        words=found.words,
        spans=found.spans,
        adds=[round(float(value), 4) for value in found.word_scores],
        score=round(found.score, 5),
        rows=rows,
        columns=columns,
        maps=[[round(float(value), 3) for value in values] for values in scaled],
    )


def _found(answers: Answers, ranking: Ranking, sentence: str, began: float) -> Found:
    rows = zip(ranking.ids, ranking.paths, ranking.scores, strict=True)
    return Found(
        results=[Result(id=id, path=path, score=score) for id, path, score in rows],
        total=sum(ranking.counts),
        histogram=Histogram(low=ranking.low, high=ranking.high, counts=ranking.counts),
        floor=answers.floor if sentence else None,
        notes=answers.engine.notes(sentence) if sentence else [],
        seconds=round(time.perf_counter() - began, 4),
    )


def _texts(sentences: list[str]) -> tuple[str, ...]:
    return tuple(sentence.strip() for sentence in sentences if sentence.strip())


def _row(answers: Answers, id: int) -> int:
    try:
        return answers.gallery.row(id)
    except (KeyError, OverflowError):
        raise HTTPException(404, "The gallery has no photo with this id.") from None


async def _while_there(request: Request, work: Coroutine) -> Any:
    """The result of some work, which is dropped if the visitor leaves before its turn."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(left())
    await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
    watch.cancel()
    if not task.done():
        task.cancel()
        raise HTTPException(499, "The visitor has left.")
    return task.result()


async def _receive(request: Request) -> bytes:
    """The body, as long as it keeps within the limits of size and time."""
    too_large = HTTPException(413, f"An upload may have {UPLOAD_BYTES // 2**20} MB.")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:20]) > UPLOAD_BYTES:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > UPLOAD_BYTES:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, "The upload took too long.") from None
    return b"".join(parts)
