"""What a job is asked, and when: its body while the relay looks at the envelope, its permission after the 354.

Both answers may be awaitables (signing in a thread, committing an intent). One is awaited at a time.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from services.sender.smtp.attempt import Attempt
from services.sender.smtp.contract import Body


class Maker(Protocol):
    """The connection that the email is on."""

    #: The relay's name.
    relay: str

    def made(self) -> None:
        """A body or a permission that was awaited has come."""

    def withdrawn(self, attempt: Attempt) -> None:
        """`may_send_body` said no."""

    def unmade(self, attempt: Attempt, error: BaseException) -> None:
        """The job could not make its body, or could not say whether it may leave."""


class Making:
    """The body and the permission of the one email on a connection whose body has not left."""

    __slots__ = ("_awaited", "_maker")

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._awaited: asyncio.Future[object] | None = None

    def begin(self, attempt: Attempt) -> None:
        """Ask for the body, unless it is made."""
        if attempt.body is not None:
            return
        try:
            body = attempt.job.body()
        except Exception as error:  # noqa: BLE001 - whatever the job raises must be reported, once
            self._maker.unmade(attempt, error)
            return
        if isinstance(body, bytes | tuple):
            attempt.body = body
        else:
            self._wait(attempt, body)

    def body_to_send(self, attempt: Attempt) -> Body | None:
        """The body, if it is made and may leave at this instant. If None, the maker is called later."""
        if attempt.body is None or self._awaited is not None:
            return None
        try:
            permission = attempt.job.may_send_body(self._maker.relay)
        except Exception as error:  # noqa: BLE001
            self._maker.unmade(attempt, error)
            return None
        if permission is True:
            return attempt.body
        if permission is False:
            self._maker.withdrawn(attempt)
        else:
            self._wait(attempt, permission)
        return None

    def stop(self) -> None:
        """Cancel what is awaited."""
        if self._awaited is not None:
            awaited, self._awaited = self._awaited, None
            awaited.cancel()

    def _wait(self, attempt: Attempt, promise: Awaitable[object]) -> None:
        self._awaited = asyncio.ensure_future(promise)
        self._awaited.add_done_callback(lambda future: self._arrived(attempt, future))

    def _arrived(self, attempt: Attempt, future: asyncio.Future[object]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if future is not self._awaited:
            return  # the connection or the email has moved on
        self._awaited = None
        if error is not None:
            self._maker.unmade(attempt, error)
        elif isinstance(result := future.result(), bytes | tuple):
            attempt.body = result
            self._maker.made()
        elif result is True:
            self._maker.made()  # which asks again
        else:
            self._maker.withdrawn(attempt)
