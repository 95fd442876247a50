"""aiosmtpd as a relay with no TLS, STARTTLS or implicit TLS, and AUTH. A separate process; keeps messages as files.

Run as `python -m tests.support.smtp.peers PORT FOLDER none|starttls|implicit CERTIFICATE KEY`.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from shared.relays.config import Tls
from tests.support.smtp.certificates import Certificate
from tests.support.smtp.sink import public_folder, unused_port, wait_for_port

PROJECT = Path(__file__).parents[3]
USER, PASSWORD = "campaigns", "correct horse"
UNKNOWN_PREFIX = "no."


class Keeper:
    """An aiosmtpd handler that keeps every accepted message. Addresses that begin with `no.` do not exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith(UNKNOWN_PREFIX):
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        assert envelope.original_content is not None
        (self._folder / f"message.{next(self._numbers)}").write_bytes(envelope.original_content)
        return "250 2.0.0 Ok: queued as AIOSMTPD1"


@contextmanager
def aiosmtpd_relay(tls: Tls, certificate: Certificate) -> Iterator[tuple[int, Path]]:
    """Port and folder of a server that runs as long as the block. With TLS it requires AUTH."""
    port = unused_port()
    with public_folder() as folder:
        files = [str(folder), tls.value, str(certificate.certificate), str(certificate.key)]
        command = [sys.executable, "-W", "ignore", "-m", "tests.support.smtp.peers", str(port), *files]
        process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port, process)
            yield port, folder
        finally:
            process.kill()
            process.wait()


async def serve(port: int, folder: Path, tls: Tls, certificate: Certificate) -> None:
    options: dict[str, Any] = {"enable_SMTPUTF8": True, "hostname": "aiosmtpd.example.org"}
    if tls is not Tls.NONE:
        options |= {"auth_required": True, "authenticator": _authenticate, "auth_require_tls": tls is Tls.STARTTLS}
    if tls is Tls.STARTTLS:
        options |= {"tls_context": certificate.server_context(), "require_starttls": True}
    keeper = Keeper(folder)
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(keeper, **options),
        "127.0.0.1",
        port,
        ssl=certificate.server_context() if tls is Tls.IMPLICIT else None,
    )
    await server.serve_forever()


def _authenticate(_server: SMTP, _session: Session, _envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    ok = isinstance(data, LoginPassword) and data.login == USER.encode() and data.password == PASSWORD.encode()
    return AuthResult(success=ok, handled=ok)


if __name__ == "__main__":
    where, how, *pems = sys.argv[2:]
    asyncio.run(serve(int(sys.argv[1]), Path(where), Tls(how), Certificate(*map(Path, pems))))
