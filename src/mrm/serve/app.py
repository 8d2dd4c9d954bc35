"""The application: its state and its routes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import pydicom
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

import mrm
from mrm.data.eval_view import EvalView
from mrm.inference.heat_maps import METHODS
from mrm.serve import dicom_answers, uploads
from mrm.serve.admission import Admission, Refused
from mrm.serve.answers import NOTICE, About, Explanation, FilledReport, Prediction, Preview, Reconstruction
from mrm.serve.decoding import DecodeProcesses
from mrm.serve.forms import MAX_IMAGES, MAX_SEED, POOL, SIDE, Form, describe_form, read_form
from mrm.serve.limits import Limits
from mrm.serve.log import Log
from mrm.serve.metrics import Metric, RequestMetrics
from mrm.serve.middleware import AccessPolicy, LimitsMiddleware, error_answer
from mrm.serve.models import Models
from mrm.serve.page_files import page_files
from mrm.serve.receiving import Reception
from mrm.serve.uploads import DecodedImage
from mrm.serve.views import EVERY_VIEW, ViewRule
from mrm.serve.watching import Watch, ended
from mrm.serve.worker import ModelWorker

T = TypeVar("T")
ERROR_MEANINGS = {
    400: "the form is incomplete",
    401: "the bearer token is missing or wrong",
    403: "the request was sent by a page of another site",
    408: "the request took too long to arrive",
    413: "the request is too large",
    415: "the request is not a form",
    422: "the image or a field cannot be used",
    503: "the service is busy; try again after Retry-After seconds",
    504: "the answer took too long",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "content": {"application/json": {"example": {"error": "the reason"}}}}
    for status, meaning in ERROR_MEANINGS.items()
}


@dataclass
class AppState:
    """What the routes share. The thread of the models and the processes that decode live as long as the application."""

    models: Models
    limits: Limits
    admission: Admission
    metrics: RequestMetrics
    log: Log
    views: ViewRule = EVERY_VIEW
    worker: ModelWorker | None = None
    decoders: DecodeProcesses | None = None
    watch: Watch | None = None
    reception: Reception | None = None
    patient_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @asynccontextmanager
    async def run(self, _: FastAPI) -> AsyncIterator[None]:
        """Run the thread and the processes while the application runs."""
        limits = self.limits
        self.decoders = DecodeProcesses(
            limits.decode_processes, limits.decode_seconds, limits.decode_memory_bytes, self.log
        )
        self.worker = ModelWorker(self.models.classify, limits.batch_size, limits.batch_wait_ms / 1000)
        unattended: list[asyncio.Task[None]] = []
        try:
            await self.decoders.start()
            unattended = [asyncio.create_task(one.run(self)) for one in (self.reception, self.watch) if one]
            yield
        finally:
            for task in unattended:
                await ended(task)
            await self.decoders.close()
            self.worker.close()

    async def decode(self, form: Form, eval_view: EvalView | None = None) -> DecodedImage:
        """The image of a form, decoded in a process of its own, for an answer of the classifier if `eval_view` is given.

        Its pixels are reserved as soon as they are here.
        """
        rule = self.views if eval_view else EVERY_VIEW
        upload = await self.in_decoder(uploads.decode, form.data, self.limits, eval_view, rule)
        form.reservation.add(upload.image_HW.nbytes)
        return upload

    async def decode_dicom(self, form: Form, eval_view: EvalView | None) -> tuple[DecodedImage, pydicom.Dataset]:
        """The same of a DICOM image, with its header."""
        rule = self.views if eval_view else EVERY_VIEW
        upload, header = await self.in_decoder(uploads.decode_dicom, form.data, self.limits, eval_view, rule)
        form.reservation.add(upload.image_HW.nbytes)
        return upload, header

    async def in_decoder(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns, called in a decoding process."""
        assert self.decoders is not None
        return await self.decoders.run(work, *arguments)

    async def in_worker(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, called in the thread of the models."""
        assert self.worker is not None
        return await self.worker.run(work)

    async def classify(self, image_HW: np.ndarray) -> np.ndarray:
        """The values of an image at the classifier's size, computed in a batch with others."""
        assert self.worker is not None
        return await self.worker.classify(image_HW)

    async def classify_study(self, sent: Sequence[DecodedImage]) -> np.ndarray:
        """The values (N, K) of the N images of a study that are used. Raises Refused (422) where none is."""
        used = [upload for upload in sent if not upload.left_out]
        if not used:
            what = "the image" if len(sent) == 1 else "every image of the study is left out; the first"
            raise Refused(422, f"{what} {sent[0].left_out}")
        return np.stack([await self.classify(upload.image_HW) for upload in used])

    @property
    def capabilities(self) -> list[str]:
        """What the models can do, and whether their answers can be DICOM objects."""
        can = self.models.capabilities
        return [*can, "dicom"] if "predict" in can and dicom_answers.is_available() else can

    def require(self, capability: str) -> None:
        """Raises Refused (404) for what these models cannot do."""
        capabilities = self.capabilities
        if capability in capabilities:
            return
        advice = "; start it with --mrm PRETRAINED" if capability in ("fill-in", "reconstruct") else ""
        if capability == "dicom" and not dicom_answers.is_available():
            advice = "; install mrm-radiograph[seg]"
        raise Refused(404, f"no model for {capability}; this service can {', '.join(capabilities)}{advice}")


def create(
    models: Models,
    limits: Limits,
    policy: AccessPolicy,
    watch: Watch | None = None,
    reception: Reception | None = None,
    views: ViewRule = EVERY_VIEW,
) -> FastAPI:
    """The application. Its routes are described by their docstrings, and at /openapi.json."""
    state = AppState(
        models, limits, Admission(limits), RequestMetrics(), Log(), views, watch=watch, reception=reception
    )
    app = FastAPI(
        title="mrm",
        version=mrm.__version__,
        description=NOTICE,
        lifespan=state.run,
        docs_url=None,  # Swagger and ReDoc load their pages from the internet
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.service = state
    _add_findings(app, state)
    _add_dicom(app, state)
    _add_pretrained(app, state)
    _add_preview(app, state)
    _add_status(app, state)
    _add_page(app)
    app.add_exception_handler(Refused, lambda _, error: error_answer(error))
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    app.add_middleware(LimitsMiddleware, policy, limits, state.admission, state.metrics, state.log, paths)
    return app


def _http_error(_: Request, error: HTTPException) -> JSONResponse:
    """Unknown paths and methods, in the form of every other error."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _add_findings(app: FastAPI, state: AppState) -> None:
    models, limits = state.models, state.limits

    @app.post("/predict", responses=ERRORS, openapi_extra=describe_form(side=SIDE))
    async def predict(request: Request) -> Prediction:
        """The findings of an image, each with probability, threshold and decision."""
        form = await read_form(request, limits)
        state.require("predict")
        side, eval_view = form.side, models.eval_view
        upload = await state.decode(form, eval_view)
        if eval_view is None:
            return await state.in_worker(lambda: models.outline(upload, side))
        (values_K,) = await state.classify_study([upload])
        return models.prediction(values_K, upload)

    @app.post("/predict-study", responses=ERRORS, openapi_extra=describe_form(MAX_IMAGES, pool=POOL))
    async def predict_study(request: Request) -> Prediction:
        """One answer for all images of a study, or its frontal ones, as `mrm predict --by-study` gives it."""
        form = await read_form(request, limits, MAX_IMAGES)
        state.require("predict")
        pool, eval_view = form.pool, models.eval_view
        if eval_view is None:
            raise Refused(404, "a segmenter outlines one image at a time; send each to /predict")
        sent = [await state.decode(one, eval_view) for one in form.single_images]
        return models.study_prediction(await state.classify_study(sent), sent, pool)

    explain_form = describe_form(
        finding={"type": "string", "enum": list(models.classes), "description": "the finding to explain"},
        method={
            "type": "string",
            "enum": models.methods or list(METHODS),
            "default": METHODS[0],
            "description": "how it is computed",
        },
        format={
            "type": "string",
            "enum": ["png", "array"],
            "default": "png",
            "description": "PNG images, or float32 values",
        },
        side=SIDE,
    )

    @app.post("/explain", responses=ERRORS, openapi_extra=explain_form)
    async def explain(request: Request) -> Explanation:
        """A heat map: what in the image raises a finding's number in this model."""
        form = await read_form(request, limits)
        state.require("explain")
        finding = form.choice("finding", models.classes)
        method = form.choice("method", tuple(models.methods), METHODS[0])
        array, side = form.choice("format", ("png", "array"), "png") == "array", form.side
        upload = await state.decode(form)
        return await state.in_worker(lambda: models.explain(upload, finding, method, side, array))


def _add_dicom(app: FastAPI, state: AppState) -> None:
    models, limits = state.models, state.limits
    content = {"description": "the file", "content": {dicom_answers.MEDIA_TYPE: {}}}

    @app.post(
        "/dicom",
        response_class=Response,
        responses={**ERRORS, 200: content},
        openapi_extra=describe_form(MAX_IMAGES, pool=POOL),
    )
    async def as_dicom(request: Request) -> Response:
        """The answer as a DICOM object: a structured report of a study, or the segmentation of one image."""
        form = await read_form(request, limits, MAX_IMAGES)
        state.require("dicom")
        pool, eval_view = form.pool, models.eval_view
        if eval_view is None:
            if form.others:
                raise Refused(422, "a segmenter outlines one image at a time; send each by itself")
            upload, header = await state.decode_dicom(form, None)
            made = await state.in_worker(lambda: dicom_answers.segmentation(models, upload, header))
            return Response(made, media_type=dicom_answers.MEDIA_TYPE)
        sent = [await state.decode_dicom(one, eval_view) for one in form.single_images]
        values_NK = await state.classify_study([upload for upload, _ in sent])
        made = await state.in_worker(lambda: dicom_answers.report(models, values_NK, sent, pool))
        return Response(made, media_type=dicom_answers.MEDIA_TYPE)


def _add_pretrained(app: FastAPI, state: AppState) -> None:
    models, limits = state.models, state.limits

    fill_in_form = describe_form(
        report={"type": "string", "description": "a report with blanks, ____ or [MASK]"},
        top={"type": "integer", "minimum": 1, "maximum": 20, "default": 5, "description": "words for each blank"},
    )

    @app.post("/fill-in", responses=ERRORS, openapi_extra=fill_in_form)
    async def fill_in(request: Request) -> FilledReport:
        """The likeliest words for the blanks of a report, with the image and without it."""
        form = await read_form(request, limits)
        state.require("fill-in")
        report, top = form.text("report"), form.number("top", 1, 20, 5)
        upload = await state.decode(form)
        return await state.in_worker(lambda: models.fill_in(upload, report, top))

    reconstruct_form = describe_form(
        seed={"type": "integer", "minimum": 0, "default": 0, "description": "chooses the patches that are masked"}
    )

    @app.post("/reconstruct", responses=ERRORS, openapi_extra=reconstruct_form)
    async def reconstruct(request: Request) -> Reconstruction:
        """The image with most patches masked, and restored by the pre-trained model."""
        form = await read_form(request, limits)
        state.require("reconstruct")
        seed = form.number("seed", 0, MAX_SEED, 0)
        upload = await state.decode(form)
        return await state.in_worker(lambda: models.reconstruct(upload, seed))


def _add_preview(app: FastAPI, state: AppState) -> None:
    format_field = {
        "type": "string",
        "enum": ["png", "values"],
        "default": "png",
        "description": "8 bits as decoded for the model, or values with a window",
    }

    @app.post("/preview", responses=ERRORS, openapi_extra=describe_form(format=format_field, side=SIDE))
    async def preview(request: Request) -> Preview:
        """The image for a viewer, and what its header states: a browser shows neither DICOM nor 16-bit images."""
        form = await read_form(request, state.limits)
        with_values = form.choice("format", ("png", "values"), "png") == "values"
        return await state.in_decoder(
            uploads.preview, form.data, state.limits, form.side, with_values, state.patient_key, state.views
        )


def _add_status(app: FastAPI, state: AppState) -> None:
    models = state.models

    @app.get("/model")
    async def model() -> About:
        """Which models the service runs, what it can do, and its limits."""
        return About(
            model=models.name,
            kind=models.kind,
            pretrained=models.pretrained_name,
            capabilities=state.capabilities,
            findings=list(models.classes),
            thresholds=models.thresholds,
            methods=models.methods,
            limits=asdict(state.limits),
            study_images=MAX_IMAGES,
            views=state.views.keep,
            version=mrm.__version__,
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the service is up. Needs no token."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Metrics for Prometheus."""
        text = state.metrics.text(_current_metrics(state))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _current_metrics(state: AppState) -> list[Metric]:
    assert state.worker is not None and state.decoders is not None
    watch, reception = state.watch, state.reception
    watched = [
        Metric("mrm_watch_reports_total", "counter", "Reports stored in the archive.", watch.stored),
        Metric("mrm_watch_failures_total", "counter", "Failures of the archive.", watch.failures),
    ] if watch else []  # fmt: skip
    received = [
        Metric("mrm_dicom_received_total", "counter", "Images received (C-STORE).", reception.received),
        Metric("mrm_dicom_refused_total", "counter", "Images refused (C-STORE).", reception.refused),
        Metric("mrm_dicom_reports_total", "counter", "Reports of images received.", reception.reports),
        Metric("mrm_dicom_failures_total", "counter", "Reports that failed.", reception.failures),
    ] if reception else []  # fmt: skip
    return [
        *watched,
        *received,
        Metric("mrm_requests_in_progress", "gauge", "Requests in progress.", state.admission.in_progress),
        Metric("mrm_reserved_bytes", "gauge", "Bytes held by requests and images.", state.admission.reserved_bytes),
        Metric("mrm_decoders_replaced_total", "counter", "Decoding processes replaced.", state.decoders.replaced),
        Metric("mrm_log_lines_left_out_total", "counter", "Lines left out of a full log.", state.log.left_out),
        Metric("mrm_model_queue_length", "gauge", "Jobs waiting for the model.", len(state.worker)),
        Metric("mrm_classifier_batches_total", "counter", "Forward passes of the classifier.", state.worker.batches),
        Metric("mrm_classified_images_total", "counter", "Images classified.", state.worker.images),
    ]


def _add_page(app: FastAPI) -> None:
    for path, (content, media_type) in page_files().items():
        app.add_route(path, _fixed(content, media_type), methods=["GET"], include_in_schema=False)


def _fixed(content: str, media_type: str) -> Callable[[Request], Response]:
    def answer(_: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer
