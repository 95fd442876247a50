"""`Idempotency-Key`: a POST that is repeated with the same key is done once, and gets the same answer.

The answer is stored in the transaction of the effect itself, so a crash leaves both or neither. A key whose request was
cut off is taken over after a while. Errors are not stored, because nothing was done.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import orjson
from fastapi import Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.background import BackgroundTask

from services.api.shapes.common import VISIBLE_ASCII
from services.api.usecases import idempotency_keys
from services.api.usecases.acts import doing
from services.api.usecases.errors import ConflictError
from services.api.usecases.idempotency_keys import Claim, Kept, KeyHeldError
from services.api.web.context import Project, ProjectDep
from services.api.web.problems import HttpError

TAKEOVER_SECONDS = 60.0

_Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=VISIBLE_ASCII,
        description="Any text of your own, such as a UUID. The same request with the same key is done only once.",
        examples=["4b0e9a3c-1c3e-4a53-9a4f-6e1f0d5f8b0a"],
    ),
]


class InProgressError(ConflictError):
    kind = "in-progress"
    title = "The first request with this Idempotency-Key is not done"
    retry_after_seconds = 1


class KeyReusedError(HttpError):
    status = 422
    kind = "key-reused"
    title = "This Idempotency-Key belongs to another request"


class _ReplayError(Exception):
    """Not an error: the answer that was given before."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with, and what is stored of it."""

    status: int
    body: BaseModel
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, background: BackgroundTask | None = None) -> Response:
        return Response(self._json(), self.status, dict(self.headers), "application/json", background)

    def stored(self) -> str:
        return orjson.dumps({"headers": dict(self.headers), "body": orjson.Fragment(self._json())}).decode()

    def _json(self) -> str:
        return self.body.model_dump_json(by_alias=True)


class Once:
    """One request under its key. Without a key nothing is stored."""

    def __init__(self, project: Project, key: str | None, digest: str = "") -> None:
        self.key = key
        self.digest = digest  # of the request; empty until its body has been read
        self._project = project
        self._claim: Claim | None = None
        self._kept: Kept | None = None

    async def begin(self, takeover_seconds: float = TAKEOVER_SECONDS) -> Response | None:
        """Takes the key; returns the stored answer if there is one. Without a digest, call `compare` when it is known.
        Raises InProgressError while the first request runs, KeyReusedError if that was another request."""
        if self.key is None:
            return None
        try:
            with doing(None):
                found = await self._take(self.key, takeover_seconds)
        except KeyHeldError:
            raise _in_progress(takeover_seconds) from None
        if isinstance(found, Claim):
            self._claim = found
            return None
        self._kept = found
        if self.digest:
            self.compare()
        return _restored(found)

    def compare(self) -> None:
        """Raises KeyReusedError if the stored answer belongs to another request."""
        if self._kept is not None and self.digest != self._kept.request_digest:
            raise KeyReusedError("The key was used before for another request. Use a new key for a new request.")

    async def renew(self, connection: AsyncConnection) -> None:
        """Keeps the key from being taken over while the request still runs."""
        if self._claim is not None:
            try:
                self._claim = await idempotency_keys.renew(connection, self._claim)
            except KeyHeldError:
                raise _in_progress(TAKEOVER_SECONDS) from None

    async def keep(self, connection: AsyncConnection, answer: Answer) -> Answer:
        """Stores the answer, in the transaction of its effect. Raises InProgressError if another request has taken the
        key over; the effect is then rolled back."""
        if self._claim is not None:
            kept = Kept(self.digest, answer.status, answer.stored())
            try:
                await idempotency_keys.keep(connection, self._claim, kept)
            except KeyHeldError:
                raise _in_progress(TAKEOVER_SECONDS) from None
        return answer

    async def release(self) -> None:
        """Forgets the key: nothing was done under it."""
        if self._claim is not None:
            with doing(None):
                async with self._project.write() as connection:
                    await idempotency_keys.release(connection, self._claim)

    async def _take(self, key: str, takeover_seconds: float) -> Claim | Kept:
        async with self._project.write() as connection:
            return await idempotency_keys.take(connection, self._project.id, key, self.digest, takeover_seconds)


async def _once(request: Request, project: ProjectDep, key: _Key = None) -> AsyncIterator[Once]:
    once = Once(project, key)
    if key is not None:
        once.digest = request_digest(request, hashlib.sha256(await request.body()).digest())
        stored = await once.begin()
        if stored is not None:
            raise _ReplayError(stored)
    try:
        yield once
    except Exception:
        await once.release()
        raise


async def _streamed(project: ProjectDep, key: _Key = None) -> Once:
    return Once(project, key)


OnceDep = Annotated[Once, Depends(_once)]
StreamedOnceDep = Annotated[Once, Depends(_streamed)]
"""For a body that is read as a stream: the handler itself begins, sets the digest and releases."""


def request_digest(request: Request, body_digest: bytes) -> str:
    """What makes two requests the same: method, path, query and body."""
    head = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    return hashlib.sha256(head + body_digest).hexdigest()


def install(app: FastAPI) -> None:
    app.add_exception_handler(_ReplayError, _replay)


async def _replay(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _ReplayError)
    return error.response


def _restored(kept: Kept) -> Response:
    stored = orjson.loads(kept.response)
    headers = {**stored["headers"], "Idempotency-Replayed": "true"}
    return Response(orjson.dumps(stored["body"]), kept.status_code, headers, "application/json")


def _in_progress(takeover_seconds: float) -> InProgressError:
    return InProgressError(
        f"Repeat it in a moment. A request that was cut off is taken over after {takeover_seconds:g} s."
    )
