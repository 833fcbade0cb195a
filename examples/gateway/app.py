"""A gateway in front of satrap: applications speak JSON or upload a file, the gateway speaks to the model.

    SATRAP_INFERENCE=127.0.0.1:7070 uvicorn --factory app:create_app --port 5003

`POST /rank` turns a business request into a batch of ids and answers with a ranking. `POST /classify` passes an
uploaded file on as it is. Both wait for the model without blocking the event loop, so many requests are under way at
once and the server can put them into one batch.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from ranking import Ranked, RankingRequest, to_batch, to_ranking

from satrap.client import AsyncInferenceClient
from satrap.errors import SatrapError

DEFAULT_ADDRESS = "127.0.0.1:7070"


def create_app(
    address: str | None = None, *, ranker: str = "ranker", classifier: str = "classifier"
) -> FastAPI:
    """The application; `address` is satrap's gRPC inference API, otherwise `SATRAP_INFERENCE` says it."""
    where = address or os.environ.get("SATRAP_INFERENCE", DEFAULT_ADDRESS)
    token = os.environ.get("SATRAP_INFERENCE_TOKEN")
    metadata = {"authorization": f"Bearer {token}"} if token else {}

    @asynccontextmanager
    async def connected(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncInferenceClient(where, timeout=5.0, metadata=metadata) as client:
            app.state.model = client
            yield

    app = FastAPI(title="satrap gateway", lifespan=connected)

    @app.exception_handler(SatrapError)
    async def refused(request: Request, error: SatrapError) -> JSONResponse:
        """What the model server said, with the status that fits; a busy server is worth another try."""
        headers = {"Retry-After": "1"} if error.http_status == 503 else {}
        return JSONResponse({"detail": str(error)}, error.http_status, headers)

    @app.get("/health")
    async def health(request: Request) -> dict[str, str]:
        """Whether the model server is well."""
        return {"model_server": await request.app.state.model.ping()}

    @app.post("/rank")
    async def rank(wanted: RankingRequest, request: Request) -> list[Ranked]:
        """The candidates, best first."""
        scores = await request.app.state.model.infer(ranker, to_batch(wanted))
        return to_ranking(wanted.candidates, scores)

    @app.post("/classify")
    async def classify(data: Annotated[UploadFile, "the file to classify"], request: Request) -> Any:
        """What the model says of the file."""
        answer = await request.app.state.model.predict(classifier, {"data": await data.read()})
        return Response(answer, media_type="application/json")

    return app
