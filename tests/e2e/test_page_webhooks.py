"""The page *Webhooks* in headless Chromium, with the real services and a receiver that can fail."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import orjson
import pytest
from standardwebhooks import Webhook

from tests.support import http_receiver
from tests.support.browser import Person, chromium, person
from tests.support.system import System
from tests.support.waiting import until

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

    def take(self, _path: str, headers: Mapping[str, str], body: bytes) -> int:
        Webhook(self.secret).verify(body, dict(headers))
        if self.status < 300:
            self.ids += [event["id"] for event in orjson.loads(body)["data"]]
        return self.status

    async def wait_for(self, number: int) -> None:
        await until(lambda: len(self.ids) >= number, PATIENCE_SECONDS)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    async with http_receiver.receiver(made.take) as made.url:
        yield made


async def shows(user: Person, words: str) -> None:
    """Reloads the page until it shows this."""

    async def shown() -> bool:
        await user.page.reload()
        return words in await user.text("main")

    await until(shown, PATIENCE_SECONDS)


async def test_a_person_makes_watches_and_mends_a_webhook(system: System, receiver: Receiver) -> None:
    system.service_settings["webhooks"] = {"webhook_networks": "127.0.0.1/32"}
    await system.start(senders=0)
    await system.launch("webhooks").wait_ready()
    async with chromium() as browser, person(browser, system.processes["api"].http_url) as user:
        page = user.page

        async def press(name: str) -> None:
            await page.get_by_role("button", name=name, exact=True).click()

        async def send_test() -> None:
            """Returns when the page has said so: a reload before would meet the page on its way."""
            await press("Send a test event")
            await page.locator("#notice").get_by_text("A test event is on its way").wait_for()

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

        await send_test()
        await receiver.wait_for(1)

        await press("New secret")
        receiver.secret = await user.text("#made")
        await page.get_by_role("link", name="Webhooks").first.click()
        await page.get_by_role("link", name=receiver.url).click()
        receiver.status = 422
        await send_test()
        await shows(user, "Number 2")
        await page.get_by_text("422").first.wait_for()
        await user.assert_accessible()
        receiver.status = 204
        await press("Deliver these again")
        await page.locator("#notice").get_by_text("1 event that it refused will be delivered again").wait_for()
        await receiver.wait_for(2)
        await shows(user, "There are none.")

        receiver.status = 500
        await send_test()
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
