"""What a sender keeps in memory: contents take turns, large emails too, and nothing waits for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from services.sender import contents as module
from services.sender.contents import Content, Contents
from services.sender.db import campaigns
from services.sender.memory import SMALL_EMAIL_BYTES, Memory
from services.sender.worklist import FIRST_ROWS, SLICE_BYTES, Worklist
from shared.errors import DataError
from shared.ledger.database import Ledger
from shared.messages.message import Attachment, CampaignHeaders, MessageBuilder
from shared.templates import compile_content
from tests.support.held import row

SIZE = 1_000_000
SECONDS = 10.0


def builder(size: int = SIZE) -> MessageBuilder:
    files = (Attachment("a.bin", "application/octet-stream", bytes(size * 3 // 4)),)
    return MessageBuilder(compile_content("s", None, "t"), CampaignHeaders(UUID(int=1), "a@b.de", attachments=files))


class Rig:
    """Contents of about SIZE bytes each, with room for so many."""

    def __init__(self, room: float) -> None:
        self.memory = Memory(int(room * SIZE * 1.2))
        self.woken = asyncio.Event()
        ledger = Ledger("sqlite+aiosqlite:///never-opened.db")
        self.contents = Contents(ledger, self.memory, self.woken.set)

    def content(self, number: int, size: int = SIZE) -> Content:
        return self.contents.of(UUID(int=number), lambda _: builder(size), size, None)

    async def loaded(self, content: Content) -> None:
        self.contents.want(content)
        async with asyncio.timeout(SECONDS):
            while content.builder is None:
                self.woken.clear()
                await self.woken.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.contents.run())
        try:
            yield
        finally:
            task.cancel()


@pytest.fixture(autouse=True)
def _stored_without_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(_ledger: Ledger, _campaign_id: UUID) -> str:
        return "{}"

    monkeypatch.setattr(campaigns, "read_content", read)
    monkeypatch.setattr(module, "TENURE_SECONDS", 0.01)


async def test_contents_that_no_email_uses_make_room_for_others() -> None:
    rig = Rig(room=2)
    async with rig.running():
        some = [rig.content(number) for number in range(5)]
        for content in some:
            await rig.loaded(content)
    assert sum(content.builder is not None for content in some) == 2
    assert rig.memory.campaigns == sum(content.size for content in some if content.builder is not None)


async def test_few_contents_wait_to_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of many campaigns under limits would fill the memory: the others are read again when emails start."""
    read: list[UUID] = []

    async def read_again(_ledger: Ledger, campaign_id: UUID) -> str:
        read.append(campaign_id)
        return "{}"

    monkeypatch.setattr(campaigns, "read_content", read_again)
    rig, made = Rig(room=module.MOST_READ + 2), list[str]()

    def make(stored: list[str]) -> MessageBuilder:
        made.append(stored[0])
        return builder(SIZE)

    some = [rig.contents.of(UUID(int=number), make, SIZE, str(number)) for number in range(module.MOST_READ + 1)]
    async with rig.running():
        for content in some:
            await rig.loaded(content)
    assert read == [UUID(int=0)]
    assert made == ["{}", *map(str, range(1, module.MOST_READ + 1))]


async def test_contents_in_use_take_turns() -> None:
    """Its emails in flight share the attachments, so it leaves when the last of them has ended."""
    rig = Rig(room=1)
    first, second = rig.content(1), rig.content(2)
    async with rig.running():
        await rig.loaded(first)
        first.use()
        waiting = asyncio.create_task(rig.loaded(second))
        async with asyncio.timeout(SECONDS):
            while first.builder is not None:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.001)
        assert second.builder is None
        assert first.used(), "the last email says that there is room now"
        rig.contents.note_room()
        await waiting
        assert first.builder is None
        await rig.loaded(first)


async def test_a_content_larger_than_the_budget_is_loaded_alone() -> None:
    rig = Rig(room=0.1)
    async with rig.running():
        for number in (1, 2):
            await rig.loaded(rig.content(number))
    assert rig.memory.campaigns < 2 * SIZE


async def test_a_small_content_does_not_wait_behind_a_large_one() -> None:
    rig = Rig(room=1)
    first, second, small = rig.content(1), rig.content(2), rig.content(3, 1000)
    async with rig.running():
        await rig.loaded(first)
        first.use()
        rig.contents.want(second)
        await rig.loaded(small)
        assert second.builder is None


async def test_a_content_that_has_to_leave_stays_if_no_one_waits_any_more() -> None:
    rig = Rig(room=1)
    first, broken = rig.content(1), rig.content(2)
    async with rig.running():
        await rig.loaded(first)
        first.is_leaving = True
        await rig.loaded(first)
    assert first.builder is not None
    assert broken.builder is None


async def test_a_content_of_which_no_email_can_be_made_says_why() -> None:
    def fail(_stored: list[str]) -> MessageBuilder:
        raise DataError("written by a later version")

    rig = Rig(room=1)
    content = rig.contents.of(UUID(int=1), fail, SIZE, None)
    async with rig.running():
        rig.contents.want(content)
        await asyncio.wait_for(rig.woken.wait(), SECONDS)
    assert content.error == "its emails cannot be made: written by a later version"
    assert rig.memory.campaigns == 0


def test_large_emails_share_the_budget_and_small_ones_never_wait() -> None:
    memory = Memory(1_000_000)
    assert memory.has_room_for_email(5_000_000), "the only one may be larger than the budget"
    memory.add_email(900_000)
    assert not memory.has_room_for_email(200_000)
    assert memory.has_room_for_email(SMALL_EMAIL_BYTES)
    memory.remove_email(900_000)
    assert memory.has_room_for_email(200_000)
    assert memory.emails == 0


def test_recipients_with_much_data_are_read_a_few_at_a_time() -> None:
    worklist = Worklist()
    assert worklist.next_rows(200) == FIRST_ROWS
    worklist.add_slice([row(number, data="x" * 64 * 1024) for number in range(FIRST_ROWS)], FIRST_ROWS)
    assert worklist.next_rows(200) == SLICE_BYTES // (64 * 1024)
    assert not worklist.needs_slice(200)
    assert Worklist(row_bytes=50.0).next_rows(200) == 200


def test_a_slice_that_ends_with_the_last_recipient_of_the_batch_is_the_last() -> None:
    worklist = Worklist(row_bytes=50.0, last_id=4)
    worklist.add_slice([row(1), row(2)], 2)
    assert worklist.needs_slice(10)
    worklist.add_slice([row(3), row(4)], 2)
    assert not worklist.needs_slice(10)
