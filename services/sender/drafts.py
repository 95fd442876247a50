"""Emails that are made some time before they start.

Making one takes twice as long in between other work as right behind another one, because the processor has to fetch the
code and the texts again. So several are made in a row.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from services.sender.campaigns import CampaignFacts
from services.sender.db.worklist import WorklistRow
from shared.errors import DataError
from shared.messages.message import MessageBuilder, Pieces, own_bytes

MOST_DRAFTS = 32
"""Emails of a batch that are made in a row."""

DRAFTS_BYTES = 512 * 1024
"""Bytes that they take together, about."""

MOST_KEPT_BYTES = 1_000_000
"""None is made ahead of a larger campaign: its fixed texts and attachments would stay in memory with them when the
campaign has to make room for another."""

DRAFTS_SECONDS = 0.002
"""So long making may hold up connections: then no further one is made."""

SIGNED_COPIES = 3
"""An email that is signed exists up to three times: as made, in its canonical form, and with its signature."""


class Draft(NamedTuple):
    """One email as it was made."""

    #: A function if it is to be signed: it returns the message, and takes most of a millisecond.
    message: Pieces | Callable[[], Pieces]
    #: MAIL FROM at relays that let it through; empty: there is none.
    token_from: str
    #: Bytes that it takes of the sender's budget.
    memory: int
    smtputf8: bool


class Drafts:
    """Those of one batch. A draft depends on nothing that changes while the batch is held."""

    __slots__ = ("_date", "_drafts", "_facts", "_is_old")

    def __init__(self, facts: CampaignFacts, date: str, *, is_old: bool) -> None:
        """`date`: the Date header. `is_old`: release 0.1.0 began to send, and emails keep the Message-ID of then."""
        self._facts = facts
        self._date = date
        self._is_old = is_old
        self._drafts: dict[int, Draft] = {}

    @staticmethod
    def most(builder: MessageBuilder) -> int:
        """How many emails may be made ahead."""
        if builder.kept_bytes > MOST_KEPT_BYTES:
            return 0
        return min(MOST_DRAFTS, DRAFTS_BYTES // max(1, builder.email_bytes))

    def take(self, builder: MessageBuilder, row: WorklistRow, following: Callable[[], Iterable[WorklistRow]]) -> Draft:
        """The email to this recipient. If it has to be made, so are those to the recipients that come next.

        Raises DataError or ValueError if the recipient's values do not fit."""
        draft = self._drafts.pop(row.id, None)
        if draft is None:
            draft = self._make(builder, row)
            self._make_ahead(builder, following())
        return draft

    def clear(self) -> None:
        """Forgets those that were made ahead."""
        self._drafts.clear()

    def _make_ahead(self, builder: MessageBuilder, rows: Iterable[WorklistRow]) -> None:
        drafts: dict[int, Draft] = {}
        until = time.monotonic() + DRAFTS_SECONDS
        for row in rows:
            with suppress(DataError, ValueError):  # raised again when it is this recipient's turn
                drafts[row.id] = self._make(builder, row)
            if time.monotonic() > until:
                break
        self._drafts = drafts  # what was left of others is made again if it is still needed

    def _make(self, builder: MessageBuilder, row: WorklistRow) -> Draft:
        facts = self._facts
        tokens = facts.tokens(row.id)
        message = facts.render(builder, row, self._date, tokens, is_old=self._is_old)
        return Draft(
            message,
            "" if self._is_old else facts.token_from(tokens),
            own_bytes(message) if isinstance(message, tuple) else SIGNED_COPIES * builder.email_bytes,
            builder.needs_smtputf8(row.email),
        )
