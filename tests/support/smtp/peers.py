"""aiosmtpd as a relay: plain, STARTTLS, implicit TLS, AUTH. It keeps what it was given."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.smtp.sink import unused_port

USER, PASSWORD = "campaigns", "correct horse"


@dataclass
class Keeper:
    """An aiosmtpd handler that keeps every accepted envelope; a recipient that begins with `no` does not exist."""

    kept: list[tuple[str, bytes]] = field(default_factory=list)

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("no."):
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        content = envelope.original_content
        assert content is not None
        self.kept.append((envelope.rcpt_tos[0], content))
        return "250 2.0.0 Ok: queued as AIOSMTPD1"


@contextmanager
def aiosmtpd_relay(
    *, starttls: ssl.SSLContext | None = None, implicit: ssl.SSLContext | None = None, auth: bool = False
) -> Iterator[tuple[int, Keeper]]:
    """Port and keeper of a server that runs in a thread of its own as long as the block."""
    keeper = Keeper()
    options: dict[str, Any] = {
        "hostname": "127.0.0.1",
        "port": unused_port(),
        "enable_SMTPUTF8": True,
        "ready_timeout": 10.0,
    }
    if starttls is not None:
        options |= {"tls_context": starttls, "require_starttls": True}
    if auth:
        options |= {"authenticator": _authenticate, "auth_required": True, "auth_require_tls": implicit is None}
    controller = Controller(keeper, ssl_context=implicit, **options)
    controller.start()
    try:
        yield controller.port, keeper
    finally:
        controller.stop()


def _authenticate(_server: SMTP, _session: Session, _envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    ok = isinstance(data, LoginPassword) and data.login == USER.encode() and data.password == PASSWORD.encode()
    return AuthResult(success=ok, handled=ok)
