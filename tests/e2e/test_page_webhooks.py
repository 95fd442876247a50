"""The page *Webhooks* in headless Chromium, with the real services and a receiver that can fail."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
import pytest
from standardwebhooks import Webhook

from tests.support.browser import Person, chromium, person
from tests.support.system import System

pytestmark = pytest.mark.timeout(300)
PATIENCE_SECONDS = 60.0


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@dataclass
class Receiver:
    """Verifies each POST, and answers with `status`."""

    url: str = ""
    secret: str = ""
    status: int = 204
    ids: list[str] = field(default_factory=list)

    async def wait_for(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.ids) < number:  # noqa: ASYNC110 - a service posts them
                await asyncio.sleep(0.05)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = (line.split(": ", 1) for line in head.splitlines()[1:] if line)
                headers = {name.lower(): value for name, value in fields}
                body = await reader.readexactly(int(headers["content-length"]))
                Webhook(self.secret).verify(body, headers)
                if self.status < 300:
                    self.ids += [event["id"] for event in orjson.loads(body)["data"]]
                writer.write(f"HTTP/1.1 {self.status} Said\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    listening = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hook"
    yield receiver
    listening.close()


async def shows(user: Person, words: str) -> None:
    """Reloads the page until it shows this."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while words not in await user.text("main"):
            await asyncio.sleep(0.1)
            await user.page.reload()


async def test_a_person_makes_watches_and_mends_a_webhook(system: System, receiver: Receiver) -> None:
    system.service_settings["webhooks"] = {"webhook_networks": "127.0.0.1/32"}
    await system.start(senders=0)
    await system.launch("webhooks").wait_ready()
    async with chromium() as browser, person(browser, system.processes["api"].http_url) as user:
        page = user.page

        async def press(name: str) -> None:
            await page.get_by_role("button", name=name, exact=True).click()

        await user.go("/")
        await user.sign_in(system.key)
        await page.get_by_role("link", name="Webhooks").click()
        await user.assert_accessible()
        await page.get_by_label("URL").fill(receiver.url)
        await page.get_by_label("Types of events (optional)").fill("webhook.*")
        await press("Create the webhook")
        receiver.secret = await user.text("#made")
        await user.assert_accessible()
        await page.get_by_role("link", name="Webhooks").first.click()
        await page.get_by_role("link", name=receiver.url).click()

        await press("Send a test event")
        await page.locator("#notice").get_by_text("A test event is on its way").wait_for()
        await receiver.wait_for(1)

        await press("New secret")
        receiver.secret = await user.text("#made")
        await page.get_by_role("link", name="Webhooks").first.click()
        await page.get_by_role("link", name=receiver.url).click()
        receiver.status = 422
        await press("Send a test event")
        await shows(user, "Number 2")
        await page.get_by_text("422").first.wait_for()
        await user.assert_accessible()
        receiver.status = 204
        await press("Deliver these again")
        await page.locator("#notice").get_by_text("1 event that it refused will be delivered again").wait_for()
        await receiver.wait_for(2)
        await shows(user, "There are none.")

        receiver.status = 500
        await press("Send a test event")
        await shows(user, "Failing")
        assert "500" in await user.text("main")
        await press("Pause")
        await page.get_by_text("Nothing is delivered until you resume it.").wait_for()
        receiver.status = 204
        await press("Resume")
        await receiver.wait_for(3)
        await page.get_by_label("Every event since (UTC)").fill("2026-01-01T00:00")
        await press("Deliver again")
        await page.get_by_text("Events since that moment are delivered again.").wait_for()
        await receiver.wait_for(6)
        assert receiver.ids[:3] == receiver.ids[3:]

        await page.get_by_text("Delete", exact=True).click()
        await press("Delete the webhook")
        await page.get_by_text("This project has no webhooks.").wait_for()
