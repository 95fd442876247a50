"""The contract as OpenAPI, at `/openapi.json`: what FastAPI generates, with every error as a problem."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.api.rest.errors import ProblemOut
from services.api.shapes.progress import Progress
from services.api.web.problems import MEDIA_TYPE

DESCRIPTION = """Sends email campaigns: every person once, on time, and anyone can see who got it, who did not and why.

Errors are `application/problem+json` (RFC 9457). Lists answer `{"data": [...], "next_cursor": ...}`. Every POST that
creates or starts something accepts an `Idempotency-Key`. 202 means that the request is durable: it will be carried out,
even if the broker or this process fails."""

TAGS = [
    {"name": "campaigns", "description": "A message and how to send it."},
    {"name": "recipients", "description": "Who gets it: import them in bulk, list them by status."},
    {"name": "actions", "description": "Send, pause, resume, cancel, retry, test."},
    {"name": "progress", "description": "Live counts, and the timeline of a campaign."},
    {"name": "feedback", "description": "What came back after the relay's 250: bounces, complaints, unsubscribes."},
    {"name": "suppressions", "description": "Addresses to which the project does not write."},
    {"name": "projects", "description": "Projects, their keys and domains, and who is signed in."},
    {"name": "domains", "description": "What receivers find in DNS about a domain."},
    {"name": "operations", "description": "Services, queues, batches."},
    {"name": "unsubscribe", "description": "The link in every email. Needs no key: the token is the proof."},
]

_EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string", "description": "Events `progress` and `closed`. Their data is a Progress."},
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
                answers["404"] = {"description": "The link is damaged or no longer valid.", "content": _HTML}
            answers["default"] = {
                "description": "An error, as a problem (RFC 9457).",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
    return document
