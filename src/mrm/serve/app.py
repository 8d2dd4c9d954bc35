"""The HTTP face of the service: routes, what they take, and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

import mrm
from mrm.inference.heat_maps import METHODS
from mrm.serve import answers
from mrm.serve.answers import About, Explanation, FilledReport, Models, Prediction, Preview, Read, Restored
from mrm.serve.counts import Counts
from mrm.serve.gate import Gate, Policy, error_answer
from mrm.serve.limits import Hold, Limits, Refused, Room
from mrm.serve.queue import Readers, Worker

HERE = Path(__file__).parent
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
FIELD_BYTES = 256_000  # of a form's field that is no file: a report is a few thousand
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": about, "content": {"application/json": {"example": {"error": "why"}}}}
    for status, about in {
        400: "no whole form arrived",
        401: "the token is missing or wrong",
        408: "the request took too long to arrive",
        413: "the request is too large",
        415: "the request is no form",
        422: "the image or a field cannot be used",
        503: "too much to do at this moment; try again after Retry-After seconds",
        504: "the answer takes too long",
    }.items()
}


@dataclass
class Desk:
    """What the routes share. The threads start and stop with the application."""

    models: Models
    limits: Limits
    room: Room
    counts: Counts
    worker: Worker | None = None
    readers: Readers | None = None

    @asynccontextmanager
    async def open(self, _: FastAPI) -> AsyncIterator[None]:
        """While the application runs."""
        self.readers = Readers(self.limits.readers)
        self.worker = Worker(self.models.classify, self.limits.batch, self.limits.wait_ms / 1000)
        try:
            yield
        finally:
            self.readers.close()
            self.worker.close()

    async def read(self, form: Form, as_tested: tuple[int, str] | None = None) -> Read:
        """Decode the image of a form in a reader's thread; a whole image counts as held."""
        assert self.readers is not None
        data = form.data
        image = await self.readers.run(lambda: answers.open_image(data, self.limits))
        if as_tested is None:
            form.hold.add(image.header.height * image.header.width)
        return await self.readers.run(lambda: answers.read(image, as_tested))

    async def work(self, work: Callable[[], Any]) -> Any:
        """Run the models."""
        assert self.worker is not None
        return await self.worker.run(work)

    def need(self, what: str) -> None:
        """Raises Refused (404) for what these models cannot do."""
        if what not in self.models.can:
            more = "; start it with --mrm PRETRAINED" if what in ("fill-in", "reconstruct") else ""
            raise Refused(404, f"this service has no model for {what}, but for {', '.join(self.models.can)}{more}")


def create(models: Models, limits: Limits, policy: Policy) -> FastAPI:
    """The application. What its routes mean is in their docstrings, and at /openapi.json."""
    desk = Desk(models, limits, Room(limits), Counts())
    app = FastAPI(
        title="mrm",
        version=mrm.__version__,
        description=answers.NOTICE,
        lifespan=desk.open,
        docs_url=None,  # Swagger and ReDoc load their pages from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.desk = desk
    _add_questions(app, desk)
    _add_images(app, desk)
    _add_state(app, desk)
    _add_page(app)
    app.add_exception_handler(Refused, lambda _, error: error_answer(error))
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    app.add_middleware(Gate, policy, limits, desk.room, desk.counts, paths)
    return app


def _http_error(_: Request, error: HTTPException) -> JSONResponse:
    """Unknown paths and methods, in the shape of every error."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


# Forms --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """What was sent: the bytes of the file, and the other fields. The file's name is not kept."""

    data: bytes
    fields: dict[str, str]
    hold: Hold

    def text(self, name: str, default: str | None = None) -> str:
        """A field. Raises Refused (422) where it is missing."""
        value = self.fields.get(name, default)
        if value is None:
            raise Refused(422, f"the field {name!r} is missing")
        return value

    def choice(self, name: str, among: tuple[str, ...], default: str | None = None) -> str:
        """A field that takes one of a few values. Raises Refused (422)."""
        value = self.text(name, default)
        if value not in among:
            raise Refused(422, f"{name} {value[:40]!r} is not one of {', '.join(among)}")
        return value

    def number(self, name: str, least: int, most: int, default: int) -> int:
        """A field that takes a whole number. Raises Refused (422)."""
        value = self.text(name, str(default))
        if not (value.isascii() and value.isdigit() and len(value) < 12 and least <= int(value) <= most):
            raise Refused(422, f"{name} {value[:40]!r} is not a whole number from {least} to {most}")
        return int(value)


class _InMemory(MultiPartParser):
    """Files of forms stay in memory, which is counted; none of a patient's images is written to a disk."""

    spool_max_size = 1 << 62


async def form_of(request: Request, limits: Limits) -> Form:
    """The form in a request, read piece by piece: as soon as it is too large, it is refused. Raises Refused."""
    hold: Hold = request.state.hold
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(415, "send a form: multipart/form-data with the image in the field 'file'")
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated) > limits.body_bytes:
        raise _too_large(limits)
    parser = _InMemory(
        request.headers, _counted(request, limits, hold), max_files=1, max_fields=8, max_part_size=FIELD_BYTES
    )
    try:
        parts = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"not a form that can be read: {error.message}") from None
    except ClientDisconnect:
        raise Refused(400, "the request broke off before its end") from None
    request.state.uploading = False
    file = parts.get("file")
    if file is None or isinstance(file, str):
        what = "missing" if file is None else "text, not a file"
        raise Refused(422, f"the field 'file' is {what}; send the image there, with a file name")
    data = await file.read()
    await file.close()
    return Form(data, {k: v for k, v in parts.items() if isinstance(v, str)}, hold)


async def _counted(request: Request, limits: Limits, hold: Hold):
    """The body, piece by piece, as long as it is not too large."""
    async for piece in request.stream():
        if hold.bytes + len(piece) > limits.body_bytes:
            raise _too_large(limits)
        hold.add(len(piece))
        yield piece


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the request has more than {limits.body_mb:g} MB, the most that this service takes")


def _takes(**others: tuple[dict[str, Any], str]) -> dict[str, Any]:
    """How OpenAPI describes a form with a file and other fields, each a schema and what it is."""
    file = {"type": "string", "format": "binary", "description": "a radiograph: JPEG, PNG, TIFF or DICOM"}
    fields = {"file": file, **{k: {**schema, "description": about} for k, (schema, about) in others.items()}}
    required = ["file", *(k for k, (schema, _) in others.items() if "default" not in schema)]
    schema = {"type": "object", "required": required, "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_SIDE = (
    {"type": "integer", "minimum": 32, "maximum": 4096, "default": answers.SIDE},
    "pixels of the longer side of images sent back, at the most",
)


def _side(form: Form) -> int:
    return form.number("side", 32, 4096, answers.SIDE)


# Routes -------------------------------------------------------------------------------------------------


def _add_questions(app: FastAPI, desk: Desk) -> None:
    models, limits = desk.models, desk.limits

    @app.post("/predict", responses=ERRORS, openapi_extra=_takes(side=_SIDE))
    async def predict(request: Request) -> Prediction:
        """The findings of an image, each with probability, threshold and decision."""
        form = await form_of(request, limits)
        desk.need("predict")
        side, as_tested = _side(form), models.as_tested
        read = await desk.read(form, as_tested)
        if as_tested is None:
            return await desk.work(lambda: models.outline(read, side))
        assert desk.worker is not None
        return models.prediction(await desk.worker.values(read.image_HW), read)

    explained = _takes(
        finding=({"type": "string", "enum": list(models.classes)}, "the finding to explain"),
        method=({"type": "string", "enum": list(METHODS), "default": METHODS[0]}, "how"),
        format=({"type": "string", "enum": ["png", "array"], "default": "png"}, "images, or raw float32 values"),
        side=_SIDE,
    )

    @app.post("/explain", responses=ERRORS, openapi_extra=explained)
    async def explain(request: Request) -> Explanation:
        """A heat map: where in the image a finding comes from, by this model."""
        form = await form_of(request, limits)
        desk.need("explain")
        finding = form.choice("finding", models.classes)
        method = form.choice("method", METHODS, METHODS[0])
        array, side = form.choice("format", ("png", "array"), "png") == "array", _side(form)
        read = await desk.read(form)
        return await desk.work(lambda: models.explain(read, finding, method, side, array))

    filled = _takes(
        report=({"type": "string"}, "a report with blanks, ____ or [MASK]"),
        top=({"type": "integer", "minimum": 1, "maximum": 20, "default": 5}, "words for each blank"),
    )

    @app.post("/fill-in", responses=ERRORS, openapi_extra=filled)
    async def fill_in(request: Request) -> FilledReport:
        """The best words for the blanks of a report, with the image and without it."""
        form = await form_of(request, limits)
        desk.need("fill-in")
        report, top = form.text("report"), form.number("top", 1, 20, 5)
        read = await desk.read(form)
        return await desk.work(lambda: models.fill_in(read, report, top))

    seeded = _takes(seed=({"type": "integer", "minimum": 0, "default": 0}, "chooses the patches that are hidden"))

    @app.post("/reconstruct", responses=ERRORS, openapi_extra=seeded)
    async def reconstruct(request: Request) -> Restored:
        """Most patches of the image hidden, and restored by the pre-trained model."""
        form = await form_of(request, limits)
        desk.need("reconstruct")
        seed = form.number("seed", 0, 2**31 - 1, 0)
        read = await desk.read(form)
        return await desk.work(lambda: models.reconstruct(read, seed))


def _add_images(app: FastAPI, desk: Desk) -> None:
    @app.post("/preview", responses=ERRORS, openapi_extra=_takes(side=_SIDE))
    async def preview(request: Request) -> Preview:
        """The image as the model's reader sees it: a browser shows neither DICOM nor 16 bits."""
        form = await form_of(request, desk.limits)
        side, read = _side(form), await desk.read(form)
        assert desk.readers is not None
        image = await desk.readers.run(lambda: answers.png(answers.shrunk(read.image_HW, side)))
        return Preview(image, read.height, read.width, read.warnings)


def _add_state(app: FastAPI, desk: Desk) -> None:
    models = desk.models

    @app.get("/model")
    async def model() -> About:
        """What the service is, can do and takes on."""
        can, methods = models.can, list(METHODS) if "explain" in models.can else []
        return About(
            models.name, models.kind, models.pretrained_name, can, list(models.classes), models.thresholds,
            methods, asdict(desk.limits), mrm.__version__,
        )  # fmt: skip

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the service is up. Needs no token."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counts and times for Prometheus."""
        assert desk.worker is not None
        gauges = {
            "mrm_requests_inside": ("gauge", "Requests being worked on.", desk.room.inside),
            "mrm_held_bytes": ("gauge", "Bytes of requests and images held.", desk.room.held),
            "mrm_queue_length": ("gauge", "Jobs that wait for the model.", len(desk.worker)),
            "mrm_batches_total": ("counter", "Forward passes of the classifier.", desk.worker.batches),
            "mrm_images_total": ("counter", "Images classified.", desk.worker.images),
        }
        return PlainTextResponse(desk.counts.text(gauges), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in PAGE.items():
        content = (HERE / name).read_bytes()  # once, at the start: no request names a file
        app.add_route(path, _fixed(content, kind), methods=["GET"], include_in_schema=False)


def _fixed(content: bytes, kind: str) -> Callable[[Request], Response]:
    return lambda _: Response(content, media_type=kind)
