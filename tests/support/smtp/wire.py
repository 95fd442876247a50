"""A connection without a network: a transport and an owner that keep what they get."""

import asyncio
from typing import Any, cast

from services.sender.smtp.attempt import Attempt, Failure
from services.sender.smtp.config import EngineConfig
from services.sender.smtp.connection import Connection
from shared.relays.replies import Reply, Stage
from shared.relays.session import Session
from tests.support.smtp.configs import engine_config
from tests.support.smtp.mail import Letter


class FakeTransport:
    """Keeps what is written until it is aborted. `unsent`: bytes that have not left its buffer."""

    def __init__(self) -> None:
        self.written = b""
        self.writes: list[bytes] = []
        self.aborted = False
        self.unsent = 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        assert not self.aborted, "written after abort"
        self.writes.append(data)
        self.written += data

    def writelines(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True

    def read(self) -> bytes:
        """What has been written since the last read."""
        data, self.written = self.written, b""
        return data


class FakeOwner:
    """Hands out letters, and keeps how each came back, by recipient: `accepted` or a failure, stage, reply."""

    def __init__(self, letters: list[Letter]) -> None:
        self.pending = list(letters)
        self.given: list[str] = []
        self.told: dict[str, tuple[str, Stage | None, Reply | None]] = {}
        self.is_closed = False
        self.gives_back = False

    def next_attempt(self, _connection: Connection) -> Attempt | None:
        if not self.pending:
            return None
        letter = self.pending.pop(0)
        self.given.append(letter.rcpt_to)
        return Attempt(letter, asyncio.get_running_loop().time())

    def accepted(self, _connection: Connection, attempt: Attempt, reply: Reply, dot_seconds: float) -> None:
        assert dot_seconds >= 0
        self._tell("accepted", attempt, Stage.DOT, reply)

    def failed(self, connection: Connection, attempt: Attempt, failure: Failure, stage: Stage, reply: Reply) -> None:
        self._tell(failure.name.lower(), attempt, stage, reply)

    def reclaimed(self, attempt: Attempt) -> bool:
        return self.gives_back and self.told.pop(attempt.job.rcpt_to)[0] == "displaced"

    def idle(self, connection: Connection) -> None:
        assert connection.in_flight == 0

    def closed(self, _connection: Connection) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True

    def _tell(self, what: str, attempt: Attempt, stage: Stage | None, reply: Reply | None) -> None:
        recipient = attempt.job.rcpt_to
        assert recipient not in self.told, f"{recipient}: {self.told[recipient]}, then {what}"
        self.told[recipient] = (what, stage, reply)


def wired(
    letters: list[Letter],
    *,
    pipelining: bool = True,
    config: EngineConfig | None = None,
    most_emails: int = 1000,
    size_limit: int | None = None,
) -> tuple[Connection, FakeTransport, FakeOwner]:
    """A connection at work on `letters`. Needs a running event loop."""
    transport, owner = FakeTransport(), FakeOwner(letters)
    session = Session(cast(Any, transport), auth=False, pipelining=pipelining, smtputf8=True, size_limit=size_limit)
    connection = Connection(owner, "fake", session, config or engine_config(), most_emails)
    connection.offer()
    return connection, transport, owner
