"""Held batches and their emails, without a ledger."""

import time
from uuid import UUID, uuid4

from services.sender.campaigns import CampaignFacts
from services.sender.contents import Content
from services.sender.db.claims import Claim
from services.sender.db.worklist import WorklistRow
from services.sender.drafts import Draft
from services.sender.held_batch import Email, HeldBatch
from services.sender.results import RetryPolicy
from shared.email_tokens import TokenMaker
from shared.messages.message import CampaignHeaders, MessageBuilder
from shared.retries import doubling
from shared.templates import compile_content

PATIENCE_SECONDS = 100.0
"""A look counts as so much newer: on a busy machine a test may take longer than a look is valid."""


def facts(*, at_most_once: bool = False) -> CampaignFacts:
    campaign_id = uuid4()
    content = compile_content("Hello {{ name }}", None, "Dear {{ name }}")
    return CampaignFacts(
        id=campaign_id,
        project_id=UUID(int=1),
        limited_as=campaign_id,
        relay_group="",
        envelope_from="bounces@example.test",
        content=Content.of(MessageBuilder(content, CampaignHeaders(campaign_id, "news@example.test"))),
        signer=None,
        retries=RetryPolicy(doubling(60.0, 3), at_most_once=at_most_once),
        tokens=TokenMaker(b"a key of 32 octets, for the tests", campaign_id).make,
        public_url="https://example.test",
    )


def row(number: int, **changes: object) -> WorklistRow:
    values: dict[str, object] = {
        "id": number,
        "email": f"person-{number}@example.test",
        "data": '{"name": "Ann"}',
        "status": "pending",
        "attempts": 0,
        "intended": False,
        "suppressed": False,
        "email_key": f"{number}@example.test",
        **changes,
    }
    return WorklistRow(**values)  # type: ignore[arg-type]


def held_batch(
    *rows: WorklistRow,
    starts_in: float = 0.0,
    at_most_once: bool = False,
    claimed_ago: float = 0.0,
    newly_dated: bool = True,
    campaign_id: UUID | None = None,
) -> HeldBatch:
    size = max(len(rows), 1)
    claim = Claim(1, campaign_id or uuid4(), 2, 1, 100, size, 1_700_000_000.0, newly_dated, starts_in, is_limited=False)
    now = time.monotonic()
    held = HeldBatch(claim, facts(at_most_once=at_most_once), now - claimed_ago)
    held.lease.renewed(now)
    held.lease.confirmed(now + PATIENCE_SECONDS)
    held.worklist.add_slice(rows, len(rows) + 1)
    return held


def email_of(held: HeldBatch) -> Email:
    """An email of this batch, without anything around it."""
    return Email(held, row(1), Draft((b"",), "", 0, False), (b"",), lambda _email, _relay: True)
