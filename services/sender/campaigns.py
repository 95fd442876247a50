"""Campaigns ready to make emails of. `send` freezes their content, so each is read once and kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import orjson

from services.sender.db import campaigns
from services.sender.db.campaigns import CampaignRow
from services.sender.db.worklist import WorklistRow
from services.sender.dkim import DkimSigner
from services.sender.results import RetryPolicy
from shared.content import CampaignContent
from shared.errors import ConfigurationError, DataError
from shared.ledger.database import Ledger
from shared.messages.campaign import headers_of
from shared.messages.message import MessageBuilder
from shared.relay_groups import NO_GROUP
from shared.retries import BY_SCHEDULE, doubling, parse_schedule
from shared.settings import SenderSettings
from shared.templates import compile_content
from shared.unsubscribe import make_link

KEPT = 32
"""Compiled campaigns that are kept; few are under way at a time."""


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """One campaign."""

    id: UUID
    project_id: UUID
    # The group of relays that its emails use.
    relay_group: str
    # The sender's address at MAIL FROM.
    envelope_from: str
    builder: MessageBuilder
    # None: emails are not signed here.
    signer: DkimSigner | None
    retries: RetryPolicy
    # By recipient id.
    unsubscribe_url: Callable[[int], str]

    def render(self, row: WorklistRow, date: str) -> bytes | Callable[[], bytes]:
        """The message to one recipient; if it is to be signed, a function that returns it and takes most of a
        millisecond. Raises DataError if the recipient's values do not fit the template."""
        data = orjson.loads(row.data) if row.data else {}
        if not isinstance(data, dict):
            raise DataError("the merge fields are not a JSON object")
        values = (row.id, row.email, data, date, self.unsubscribe_url(row.id))
        if self.signer is None:
            return self.builder.build(*values)
        return partial(self.signer.sign, self.builder.build_unsigned(*values))


class Campaigns:
    """The campaigns this process sends."""

    def __init__(self, ledger: Ledger, settings: SenderSettings, signers: Mapping[str, DkimSigner]) -> None:
        self._ledger = ledger
        self._public_url = settings.public_url
        self._unsubscribe_key = settings.unsubscribe_signing_key
        self._schedule = parse_schedule(settings.retry_schedule)
        self._hold_seconds = settings.provider_hold_seconds
        self._max_message_bytes = settings.max_message_bytes
        self._signers = signers
        self._groups = settings.groups
        self._kept: OrderedDict[UUID, CampaignFacts] = OrderedDict()

    async def get(self, campaign_id: UUID) -> CampaignFacts:
        """Raises ConfigurationError if its relay group is unknown here, and TemplateError or HeaderError if the content
        cannot be used. The API has checked both, and what an older release took is sent as well, so that happens only
        if a setting has changed since, and to what no escaping makes safe."""
        if campaign_id in self._kept:
            self._kept.move_to_end(campaign_id)
            return self._kept[campaign_id]
        row = await campaigns.read(self._ledger, campaign_id)
        content = CampaignContent.model_validate_json(row.content)

        def unsubscribe_url(recipient_id: int) -> str:
            return make_link(self._public_url, self._unsubscribe_key, campaign_id, recipient_id)

        # Megabytes of HTML take a while to compile: other campaigns go on.
        compiled = await asyncio.to_thread(
            compile_content,
            content.subject,
            content.html,
            content.text,
            max_message_bytes=self._max_message_bytes,
            is_stored=True,
        )
        facts = CampaignFacts(
            id=campaign_id,
            project_id=row.project_id,
            relay_group=self._group_of(row),
            envelope_from=row.envelope_from,
            builder=MessageBuilder(compiled, headers_of(campaign_id, row, row.project, row.sender_id, content)),
            signer=self._signers.get(row.from_email.rpartition("@")[2]),
            retries=self._retries(row),
            unsubscribe_url=unsubscribe_url,
        )
        self._kept[campaign_id] = facts
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return facts

    def _group_of(self, row: CampaignRow) -> str:
        """Raises ConfigurationError if no relay here belongs to it."""
        group = self._groups.group_of(row.relay_group, row.from_email)
        if group != NO_GROUP and group not in self._groups.names:
            raise ConfigurationError(
                f"its relay group {group!r} is not in VASHSENDER_RELAY_GROUPS of this sender: add it and its relays"
            )
        return group

    def _retries(self, row: CampaignRow) -> RetryPolicy:
        own = row.max_retries != BY_SCHEDULE
        schedule = doubling(row.retry_delay_seconds, row.max_retries) if own else self._schedule
        return RetryPolicy(schedule, self._hold_seconds, row.delivery == "at_most_once")
