"""What came back of a campaign, in headless Chromium on the whole system: from the bounce to the table of reasons."""

from uuid import UUID

import pytest

from shared.email_tokens import TokenMaker
from shared.signing import Use, derived_key
from tests.support.browser import chromium, person
from tests.support.lmtp import a_bounce
from tests.support.system import System

pytestmark = pytest.mark.timeout(300)

SECRET = "a key that signs in this test alone"
MEAN = "552 5.2.2 <img src=x onerror=document.title='run'> over quota"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


async def give(system: System, octets: bytes) -> None:
    async with system.client() as client:
        answer = await client.post("/feedback/raw", content=octets, headers={"Content-Type": "message/rfc822"})
    assert answer.json()["result"] == "recorded", answer.text


async def test_a_person_sees_why_emails_came_back(system: System) -> None:
    system.settings |= {"secret_key": SECRET}
    await system.start(senders=1)
    campaign = await system.create(4)
    await system.send(campaign)
    await system.wait_closed(campaign)
    async with system.client() as client:
        found = (await client.get(f"/campaigns/{campaign}/recipients")).raise_for_status().json()["data"]
    make = TokenMaker(derived_key(SECRET.encode(), Use.UNSUBSCRIBE), UUID(campaign)).make
    gone, also_gone, full, leaver = (make(one["id"]) for one in found)
    async with chromium() as browser, person(browser, system.processes["api"].http_url) as user:
        page = user.page
        await user.go("/")
        await user.sign_in(system.key)
        await user.go(f"/campaigns/{campaign}/reports")
        await page.get_by_text("Nothing has come back.").wait_for()
        await user.assert_accessible()
        for tokens in (gone, also_gone):
            await give(system, a_bounce(tokens.mail))
        await give(system, a_bounce(full.mail, "5.2.2", MEAN))
        await give(system, f"From: a@example.org\nTo: unsubscribe+{leaver.mail}@b.example.com\n\n".encode())
        await user.go(f"/campaigns/{campaign}")
        await page.locator("#n-bounced").click()
        await page.get_by_role("heading", name="What came back").wait_for()
        rows = [await row.locator("th, td").all_inner_texts() for row in await page.locator("tbody tr").all()]
        assert [row[:3] for row in rows] == [
            ["bounced", "no such mailbox", "2"],
            ["bounced", "the mailbox is full", "1"],
            ["unsubscribed", "", "1"],
        ]
        assert MEAN in rows[1][3]
        assert await page.title() != "run"
        assert await page.locator("tbody img").count() == 0
        await user.assert_accessible()
