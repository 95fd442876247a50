"""`Idempotency-Key`: a POST that is repeated with the same key is done once, and answered alike.

The stored answer is written in the transaction of the effect itself, so a crash in between leaves both or neither. A
key whose request was cut off is taken over after a while. Answers that are errors are not kept: nothing was done.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col
from starlette.background import BackgroundTask

from services.api.context import Api, ApiDep, ProjectDep
from services.api.problems import Problem
from shared.ledger.database import clock, db_now
from shared.ledger.models import IdempotencyKey

TAKEOVER_SECONDS = 60.0

_Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your own, such as a UUID. The same request with the same key is done once.",
        examples=["4b0e9a3c-1c3e-4a53-9a4f-6e1f0d5f8b0a"],
    ),
]


class _ReplayError(Exception):
    """Not an error: the answer that was given before."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


@dataclass
class Once:
    """One request under its key; without a key nothing is kept. `started_at` fences: who took over has another."""

    api: Api
    project_id: UUID
    key: str | None
    digest: str = ""
    started_at: float = 0.0
    stored_digest: str = ""

    async def begin(self, takeover_seconds: float = TAKEOVER_SECONDS) -> Response | None:
        """Takes the key; returns the stored answer where there is one. `digest` may be empty: compared at the end then.
        Raises Problem: 409 while the first request runs, 422 when it was another request."""
        if self.key is None:
            return None
        async with self.api.ledger.write() as connection:
            insert = sqlite_insert if self.api.ledger.is_sqlite else postgresql_insert
            self.started_at = await clock(connection)
            taken = await connection.execute(
                insert(IdempotencyKey)
                .values(
                    project_id=self.project_id, key=self.key, request_digest=self.digest, created_at=self.started_at
                )
                .on_conflict_do_nothing()
            )
            if taken.rowcount > 0:
                return None
            found = (
                await connection.execute(
                    select(
                        col(IdempotencyKey.request_digest),
                        col(IdempotencyKey.status_code),
                        col(IdempotencyKey.response),
                    ).where(*self._mine())
                )
            ).one()
            if found.status_code is not None:
                self.stored_digest = found.request_digest
                if self.digest:
                    self.compare()
                return _restored(found.status_code, found.response or "{}")
            taken = await connection.execute(
                update(IdempotencyKey)
                .where(
                    *self._mine(),
                    col(IdempotencyKey.status_code).is_(None),
                    col(IdempotencyKey.created_at) < self.started_at - takeover_seconds,
                )
                .values(request_digest=self.digest, created_at=self.started_at)
            )
            if taken.rowcount == 0:
                raise _in_progress(takeover_seconds)
            return None

    def compare(self) -> None:
        """Raises Problem where the stored answer is another request's."""
        if self.digest != self.stored_digest:
            raise Problem(
                422,
                "key-reused",
                "This Idempotency-Key belongs to another request",
                "The key was used before for another request or body. Use a new key for a new request.",
            )

    async def renew(self, connection: AsyncConnection) -> None:
        """Says, in the transaction at hand, that the request still runs: nobody takes over."""
        if self.key is not None:
            now = await clock(connection)
            await self._change(connection, created_at=now)
            self.started_at = now

    async def answer(
        self,
        connection: AsyncConnection,
        status_code: int,
        body: BaseModel,
        *,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> Response:
        """The response; in the transaction at hand it is kept under the key."""
        content = body.model_dump_json(by_alias=True)
        if self.key is not None:
            kept = orjson.dumps({"headers": dict(headers or {}), "body": orjson.Fragment(content)}).decode()
            await self._change(connection, status_code=status_code, response=kept, request_digest=self.digest)
        return Response(content, status_code, headers, "application/json", background)

    async def release(self) -> None:
        """Forgets the key: nothing was done under it."""
        if self.key is not None:
            async with self.api.ledger.write() as connection:
                await connection.execute(delete(IdempotencyKey).where(*self._held()))

    async def _change(self, connection: AsyncConnection, **values: object) -> None:
        changed = await connection.execute(update(IdempotencyKey).where(*self._held()).values(**values))
        if changed.rowcount == 0:
            raise _in_progress(TAKEOVER_SECONDS)  # another request took over: this one's effect is rolled back

    def _mine(self) -> tuple[ColumnElement[bool], ...]:
        return col(IdempotencyKey.project_id) == self.project_id, col(IdempotencyKey.key) == self.key

    def _held(self) -> tuple[ColumnElement[bool], ...]:
        return (
            *self._mine(),
            col(IdempotencyKey.status_code).is_(None),
            col(IdempotencyKey.created_at) == self.started_at,
        )


async def _once(request: Request, api: ApiDep, project_id: ProjectDep, key: _Key = None) -> AsyncIterator[Once]:
    once = Once(api, project_id, key)
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


async def _streamed(api: ApiDep, project_id: ProjectDep, key: _Key = None) -> Once:
    return Once(api, project_id, key)


OnceDep = Annotated[Once, Depends(_once)]
StreamedOnceDep = Annotated[Once, Depends(_streamed)]
"""For a body that is not read at once: the handler begins, sets the digest and releases by itself."""


def request_digest(request: Request, body_digest: bytes) -> str:
    """What makes two requests the same: method, path, query and body."""
    head = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    return hashlib.sha256(head + body_digest).hexdigest()


async def forget_expired(connection: AsyncConnection, older_than_seconds: float) -> int:
    """Drops keys that are remembered long enough; returns how many."""
    gone = await connection.execute(
        delete(IdempotencyKey).where(col(IdempotencyKey.created_at) < db_now() - older_than_seconds)
    )
    return gone.rowcount


def install(app: FastAPI) -> None:
    app.add_exception_handler(_ReplayError, _replay)


async def _replay(_request: Request, error: Exception) -> Response:
    assert isinstance(error, _ReplayError)
    return error.response


def _restored(status_code: int, kept: str) -> Response:
    stored = orjson.loads(kept)
    headers = {**stored["headers"], "Idempotency-Replayed": "true"}
    return Response(orjson.dumps(stored["body"]), status_code, headers, "application/json")


def _in_progress(takeover_seconds: float) -> Problem:
    return Problem(
        409,
        "in-progress",
        "The first request with this Idempotency-Key is not done",
        f"Repeat it in a moment. A request that was cut off is taken over after {takeover_seconds:g} s.",
        headers={"Retry-After": "1"},
    )
