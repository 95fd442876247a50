"""docs/examples/requests.sh, the examples of the API reference: each runs against a real server, in their order.

`jq` is replaced: it may not be there.
"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from scripts.api_reference import examples, prelude
from shared.email_tokens import TokenMaker
from shared.signing import Use, derived_key
from tests.support.dns import no_records
from tests.support.feedback_corpus import ANN, TOKEN, dsn, group
from tests.support.relay import RecordingRelay
from tests.support.system import System
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)

FOLLOWS = "GET /v1/campaigns/{campaign_id}/events"
"""Ends when the campaign is over. The examples before it pause and resume, so nothing may be sent before it."""
SECRET = "not a secret but long enough to be one"
PEOPLE = "email,first_name\nann@example.com,Ann\nnobody@example.com,Bob\n"
JQ = f"""#!{sys.executable}
import json, sys
print(json.load(sys.stdin)[sys.argv[2].removeprefix(".")])
"""
CURL = '#!/bin/sh\nexec /usr/bin/curl --noproxy "*" --max-time 60 "$@"\n'


def script(port: str) -> str:
    """The file for one shell, in which each example has to give the answer that its heading names."""
    parts = [prelude()]
    for example in examples():
        parts += [f"echo; echo '# {example.request}'"]
        parts += ["touch resumed"] if example.request == FOLLOWS else []
        refused = f"{{\n{example.text}\n}} > refused && exit 1\ngrep '\"status\": *{example.status}' refused"
        parts += [refused if example.status else example.text]
    return "\n".join(parts).replace("127.0.0.1:8700", f"127.0.0.1:{port}")


@pytest.fixture
def dns_servers() -> Iterator[str]:
    with no_records() as address:
        yield address


async def test_every_example_works(system: System, relay: RecordingRelay, dns_servers: str, tmp_path: Path) -> None:
    relay.behaviour.rcpt = lambda rcpt, _tries: b"550 5.1.1 no such user\r\n" if rcpt.startswith("nobody") else None
    system.settings |= {"secret_key": SECRET, "dns_servers": dns_servers}
    await system.start(senders=1)
    folder = tmp_path / "reader"
    (folder / "var" / "secrets").mkdir(parents=True)
    (folder / "var" / "secrets" / "api_key").write_text(system.key)
    (folder / "people.csv").write_text(PEOPLE)
    earlier = await system.create(["earlier@example.com"])
    await system.send(earlier)
    await system.wait_closed(earlier)
    await system.processes.pop("sender-1").stop()
    tokens = TokenMaker(derived_key(SECRET.encode(), Use.UNSUBSCRIBE), UUID(earlier)).make(1)
    bounce = dsn("MAILER-DAEMON@mx.example.net", "Undelivered", "x", group("failed", "5.1.1", "550 5.1.1 No such user"))
    (folder / "bounce.eml").write_bytes(
        bounce.replace(TOKEN.encode(), tokens.mail.encode()).replace(ANN.encode(), b"earlier@example.com")
    )
    for name, text in (("jq", JQ), ("curl", CURL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    port = system.processes["api"].http_url.rpartition(":")[2]
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script(port)),
        cwd=folder,
        env={"PATH": f"{folder}:{os.environ['PATH']}", "token": tokens.link},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = asyncio.create_task(shell.communicate())
    await until(lambda: (folder / "resumed").exists() or output.done(), 120)
    system.launch("sender", "sender-1")
    told = (await output)[0].decode()
    assert shell.returncode == 0, told[-3000:]
    answers = told.replace(" ", "")
    assert re.search(r'"accepted":2,', answers), "the import"
    assert '"result":"recorded"' in answers, "the bounce"
    people = ["ann@example.com", "earlier@example.com", "me@example.com"]
    await until(lambda: sorted(email.rcpt for email in relay.received) == people)
