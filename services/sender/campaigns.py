"""The campaigns that a sender makes emails of. `send` freezes them, so what is read of one stays true."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from uuid import UUID
from weakref import WeakValueDictionary

import orjson

from services.sender.contents import Content, Contents
from services.sender.db import campaigns
from services.sender.db.campaigns import CampaignRow
from services.sender.db.worklist import WorklistRow
from services.sender.memory import Memory
from services.sender.metrics import SenderMetrics
from services.sender.results import RetryPolicy
from shared.content import CampaignContent
from shared.email_tokens import BOUNCE, EmailTokens, TokenMaker
from shared.errors import ConfigurationError, DataError
from shared.ledger.database import Ledger
from shared.ledger.rate_limits import Scopes, campaign_scope, project_scope
from shared.messages.campaign import ProjectHeaders, headers_of
from shared.messages.dkim import DkimSigner
from shared.messages.message import MessageBuilder, Pieces
from shared.relay_groups import NO_GROUP
from shared.retries import BY_SCHEDULE, doubling, parse_schedule
from shared.settings import SenderSettings
from shared.templates import compile_content

KEPT = 32
"""Campaigns that are remembered without a held batch; few are under way at a time."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class CampaignFacts:
    """One campaign."""

    id: UUID
    project_id: UUID
    # The campaign whose limit its emails count under: of a test, the tested one.
    limited_as: UUID
    # The group of relays that its emails use.
    relay_group: str
    # The sender's address at MAIL FROM.
    envelope_from: str
    content: Content
    # None: emails are not signed here.
    signer: DkimSigner | None
    retries: RetryPolicy
    # Makes the tokens of a recipient, by its id.
    tokens: Callable[[int], EmailTokens]
    # The base of unsubscribe links.
    public_url: str = ""
    # Takes bounces; empty: MAIL FROM is `envelope_from`.
    bounce_domain: str = ""

    @property
    def limit_scopes(self) -> Scopes:
        """The scopes of the limits that its emails may be under, besides those of relays."""
        return campaign_scope(self.limited_as), project_scope(self.project_id)

    def token_from(self, tokens: EmailTokens) -> str:
        """MAIL FROM of one email, at relays that let it through; empty: there is none."""
        return f"{BOUNCE}{tokens.mail}@{self.bounce_domain}" if self.bounce_domain else ""

    def render(
        self, builder: MessageBuilder, row: WorklistRow, date: str, tokens: EmailTokens, *, is_old: bool = False
    ) -> Pieces | Callable[[], Pieces]:
        """The message to one recipient; if it is to be signed, a function that returns it and takes most of a
        millisecond. Raises DataError if the recipient's values do not fit the template. `is_old`: it keeps the
        Message-ID of release 0.1.0."""
        data = orjson.loads(row.data) if row.data else {}
        if not isinstance(data, dict):
            raise DataError("the merge fields are not a JSON object")
        names = row.id if is_old else tokens.mail
        values = (names, row.email, data, date, f"{self.public_url}/u/{tokens.link}")
        if self.signer is None:
            return builder.build_pieces(*values)
        return partial(self.signer.sign, builder.build_unsigned(*values))


class Campaigns:
    """The campaigns this process sends."""

    def __init__(
        self,
        ledger: Ledger,
        settings: SenderSettings,
        signers: Mapping[str, DkimSigner],
        metrics: SenderMetrics,
        wake_feed: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self.contents = Contents(ledger, Memory(settings.mail_memory_bytes, metrics.memory), wake_feed)
        self._public_url = settings.public_url
        self._unsubscribe_key = settings.unsubscribe_signing_key
        self._schedule = parse_schedule(settings.retry_schedule)
        self._hold_seconds = settings.provider_hold_seconds
        self._max_message_bytes = settings.max_message_bytes
        self._signers = signers
        self._groups = settings.groups
        self._kept: OrderedDict[UUID, CampaignFacts] = OrderedDict()
        #: Those of held batches, too.
        self._known: WeakValueDictionary[UUID, CampaignFacts] = WeakValueDictionary()
        #: Held while a campaign is read.
        self._reading: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def get(self, campaign_id: UUID) -> CampaignFacts:
        """The facts of a campaign, without loading its content. Raises ConfigurationError if its relay group is unknown
        here: a setting has changed since the API checked it."""
        # The first batches of a campaign are claimed at the same time.
        async with self._reading.setdefault(campaign_id, asyncio.Lock()):
            facts = self._known.get(campaign_id)
            if facts is None:
                row, short_content = await campaigns.read(self._ledger, campaign_id)
                self._known[campaign_id] = facts = self._facts(campaign_id, row, short_content)
        self._kept[campaign_id] = facts
        self._kept.move_to_end(campaign_id)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return facts

    def _facts(self, campaign_id: UUID, row: CampaignRow, short_content: str | None) -> CampaignFacts:
        def make(stored: list[str]) -> MessageBuilder:
            content = CampaignContent.model_validate_json(stored.pop())
            compiled = compile_content(
                content.subject,
                content.html,
                content.text,
                max_message_bytes=self._max_message_bytes,
                is_stored=True,
            )
            project = ProjectHeaders(row.project, row.sender_id, row.bounce_domain)
            return MessageBuilder(compiled, headers_of(campaign_id, row, project, content))

        return CampaignFacts(
            id=campaign_id,
            project_id=row.project_id,
            limited_as=row.test_of or campaign_id,
            relay_group=self._group_of(row),
            envelope_from=row.envelope_from,
            content=self.contents.of(campaign_id, make, row.content_bytes, short_content),
            signer=self._signers.get(row.from_email.rpartition("@")[2]),
            retries=self._retries(row),
            tokens=TokenMaker(self._unsubscribe_key, campaign_id).make,
            public_url=self._public_url,
            # Who names an address for bounces wants them there.
            bounce_domain=(row.bounce_domain or "") if row.envelope_from == row.from_email else "",
        )

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
