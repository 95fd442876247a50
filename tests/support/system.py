"""The whole system as processes: api, dispatcher, watchdog and senders on real servers, driven over HTTP."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cli.local.ports import free_port
from shared import topology
from shared.ledger.database import Ledger
from shared.ledger.keys import create_key
from tests.support.processes import ServiceProcess
from tests.support.relay import RecordingRelay

FINAL = ("finished", "failed", "cancelled", "expired")
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """A campaign in the ledger compared with what the relay received."""

    #: Recipients by status, as the api shows them.
    counts: Mapping[str, int]
    #: Sent in the ledger, but never received by the relay.
    lost: int
    #: Copies at the relay beyond the first.
    duplicated: int
    #: Received by the relay, but not sent in the ledger.
    unrecorded: int


@dataclass
class System:
    """One installation. Names of settings are without their prefix `VASHSENDER_`."""

    folder: Path
    database_url: str
    services_url: str
    relay: RecordingRelay | None
    #: Settings of every service.
    settings: dict[str, str] = field(default_factory=dict)
    #: Further settings by service.
    service_settings: dict[str, dict[str, str]] = field(default_factory=dict)
    #: By name, such as `sender-1`.
    processes: dict[str, ServiceProcess] = field(default_factory=dict)
    #: An API key.
    key: str = ""
    python: str = sys.executable

    def launch(
        self, service: str, name: str = "", environment: Mapping[str, str] | None = None, **settings: str
    ) -> ServiceProcess:
        """Starts one process. A sender's name is its slot name; `environment` adds variables that are not settings."""
        name = name or service
        values = {
            "database_url": self.database_url,
            "amqp_url": self.services_url,
            **({"relays": self.relay.url} if self.relay else {}),
            "var_dir": str(self.folder),
            **self.settings,
            **self.service_settings.get(service, {}),
            **({"slot": name} if service == "sender" else {}),
            **settings,
        }
        process = ServiceProcess(
            service,
            {**(environment or {}), **{f"VASHSENDER_{key.upper()}": value for key, value in values.items()}},
            free_port(),
            self.folder,
            name,
            self.python,
        )
        process.launch()
        self.processes[name] = process
        return process

    async def start(self, senders: int = 2) -> None:
        for service in ("api", "dispatcher", "watchdog"):
            self.launch(service)
        for number in range(1, senders + 1):
            self.launch("sender", f"sender-{number}")
        await asyncio.gather(*(process.wait_ready() for process in self.processes.values()))

    def kill_all(self) -> None:
        for process in self.processes.values():
            process.kill()

    @property
    def senders(self) -> list[ServiceProcess]:
        return [process for name, process in self.processes.items() if name.startswith("sender")]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            base_url=f"{self.processes['api'].http_url}/v1",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60,
            trust_env=False,
            verify=False,  # there is no TLS here, and loading certificates takes 30 ms for each client
        ) as client:
            yield client

    async def post(self, path: str, body: object = None) -> dict[str, Any]:
        async with self.client() as client:
            response = await client.post(path, json=body if body is not None else {})
        assert response.is_success, f"POST {path}: {response.status_code} {response.text}"
        answer: dict[str, Any] = response.json()
        return answer

    async def create(self, recipients: int | Iterable[str], **fields: object) -> str:
        """Creates a draft and imports its recipients. Returns its id."""
        addresses = (
            [f"person-{number}@example.test" for number in range(recipients)]
            if isinstance(recipients, int)
            else list(recipients)
        )
        body = {
            "name": "test",
            "from": {"email": "news@example.test", "name": "News"},
            "subject": "Hello {{ name|default('you') }}",
            "text": "Dear {{ name|default('you') }},\n\nhello.\n",
            **fields,
        }
        campaign: str = (await self.post("/campaigns", body))["id"]
        lines = "".join(
            json.dumps({"email": address, "data": {"name": f"N{number}"}}) + "\n"
            for number, address in enumerate(addresses)
        )
        async with self.client() as client:
            response = await client.post(
                f"/campaigns/{campaign}/recipients", content=lines, headers={"Content-Type": "application/x-ndjson"}
            )
        assert response.is_success, response.text
        return campaign

    async def send(self, campaign: str, **fields: object) -> None:
        await self.post(f"/campaigns/{campaign}/send", fields)

    async def erase(self, email: str, seconds: float = 60.0) -> None:
        """Asks again until it is done."""
        async with asyncio.timeout(seconds):
            while True:
                if (await self.post("/erase", {"email": email}))["state"] == "done":
                    return
                await asyncio.sleep(POLL_SECONDS)

    async def resume_refused(self, campaign: str, refused: str) -> None:
        """Resumes a campaign that a breaker paused, once its senders have recorded their last results."""
        async with asyncio.timeout(30), self.client() as client:
            while True:
                answer = await client.post(f"/campaigns/{campaign}/resume", json={"refused": refused})
                if answer.is_success:
                    return
                assert answer.json()["type"].endswith("still-sending"), answer.text
                await asyncio.sleep(POLL_SECONDS)

    async def show(self, campaign: str) -> dict[str, Any]:
        async with self.client() as client:
            answer: dict[str, Any] = (await client.get(f"/campaigns/{campaign}")).raise_for_status().json()
        return answer

    async def wait_until(
        self, campaign: str, condition: Callable[[dict[str, Any]], object], seconds: float = 60.0
    ) -> dict[str, Any]:
        """Polls a campaign until it meets the condition. An unavailable api is asked again."""
        answer: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        answer = await self.show(campaign)
                        if condition(answer):
                            return answer
                    except httpx.HTTPError:
                        pass
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(f"not in {seconds:g} s: {answer}") from None

    async def wait_closed(self, campaign: str, seconds: float = 60.0) -> dict[str, Any]:
        return await self.wait_until(campaign, lambda answer: answer["status"] in FINAL, seconds)

    async def reconcile(self, campaign: str) -> Reconciliation:
        """Compares the ledger with what the relay kept, recipient by recipient."""
        sent: set[str] = set()
        cursor: str | None = None
        async with self.client() as client:
            while True:
                params = {"status": "sent", "limit": "1000", **({"cursor": cursor} if cursor else {})}
                page = (await client.get(f"/campaigns/{campaign}/recipients", params=params)).raise_for_status().json()
                sent.update(recipient["email"] for recipient in page["data"])
                cursor = page["next_cursor"]
                if cursor is None:
                    break
        answer = await self.show(campaign)
        assert self.relay is not None
        copies = self.relay.copies
        return Reconciliation(
            counts=answer["counts"],
            lost=len(sent - copies.keys()),
            duplicated=self.relay.duplicates,
            unrecorded=len(copies.keys() - sent),
        )


@asynccontextmanager
async def installation(
    folder: Path,
    database_url: str,
    admin_url: str,
    services_url: str,
    relay: RecordingRelay | None,
    **settings: str,
) -> AsyncIterator[System]:
    """Declares the topology and creates a key, but starts nothing. Kills every launched process at the end."""
    await topology.declare(admin_url)
    key = await new_key(database_url)
    system = System(folder, database_url, services_url, relay, dict(settings), key=key)
    try:
        yield system
    finally:
        await asyncio.to_thread(system.kill_all)


async def new_key(database_url: str) -> str:
    """Creates an API key in the ledger and returns its secret."""
    ledger = Ledger(database_url, pool_size=1)
    try:
        async with ledger.write() as connection:
            return await create_key(connection, "test")
    finally:
        await ledger.close()
