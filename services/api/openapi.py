"""The contract as OpenAPI, at `/openapi.json`: what FastAPI finds, and every error as the problem it is."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.api.problems import MEDIA_TYPE, ProblemOut
from services.api.progress import Progress

DESCRIPTION = """Sends email campaigns: every person once, on time, and anyone can see who got it, who did not and why.

Errors are `application/problem+json` (RFC 9457). Lists answer `{"data": [...], "next_cursor": ...}`. A POST that
creates or starts something takes an `Idempotency-Key`. 202 means durable: it happens, whatever becomes of the broker
or of this process."""

TAGS = [
    {"name": "campaigns", "description": "A message and how to send it."},
    {"name": "recipients", "description": "Who gets it: imported in bulk, listed by what became of them."},
    {"name": "actions", "description": "Send, pause, resume, cancel, retry, test."},
    {"name": "progress", "description": "Live counts and the story of a campaign."},
    {"name": "suppressions", "description": "Addresses nobody of the project writes to any more."},
    {"name": "operations", "description": "Processes, queues, batches."},
    {"name": "unsubscribe", "description": "The link in every email. No key: the token is the proof."},
]

_EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string", "description": "Events `progress` and `closed`; their data is a Progress."},
        "example": 'event: progress\ndata: {"status": "sending", "counts": {"total": 1000, "sent": 412, ...}, ...}\n\n',
    }
}
_HTML = {"text/html": {"schema": {"type": "string"}}}


def install(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title="VashSender", version="1", description=DESCRIPTION, routes=app.routes, tags=TAGS)
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = ProblemOut.model_json_schema()
    progress = Progress.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= progress.pop("$defs") | {"Progress": progress}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            answers.pop("422", None)
            for answer in answers.values():
                if "text/event-stream" in answer.get("content", {}):
                    answer["content"] = _EVENTS
            if path.startswith("/u/"):
                answers["200"]["content"] = _HTML
                answers["404"] = {"description": "The link is damaged or no longer known.", "content": _HTML}
            answers["default"] = {
                "description": "An error, as a problem (RFC 9457).",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
    return document
