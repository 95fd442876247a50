"""A campaign counted from both sides: in the ledger and in the mailbox."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cli.mailbox.maildir import Maildir
from shared.ledger.states import OPEN, RecipientStatus

_SENT = RecipientStatus.SENT.value
_REFUSED = frozenset(
    status.value for status in RecipientStatus if status not in (*OPEN, RecipientStatus.SENT, RecipientStatus.UNKNOWN)
)


@dataclass(frozen=True, slots=True)
class Account:
    """Numbers of recipients, and of copies."""

    recipients: int
    #: `sent` in the ledger, and in the mailbox.
    sent: int
    #: Closed without being sent, and not in the mailbox.
    failed: int
    #: None of the others.
    lost: int
    #: Copies beyond the first.
    duplicated: int
    #: In the mailbox, but not `sent` in the ledger.
    astray: int

    def line(self) -> str:
        """The last line of a demo."""
        return (
            f"{self.recipients} recipients: {self.sent} sent, {self.failed} failed, "
            f"{self.lost} lost, {self.duplicated} duplicated"
        )


def settle(ledger: Mapping[str, str], mailbox: Mapping[str, int]) -> Account:
    """Compares the ledger (status by address) with the mailbox (copies by address)."""
    sent = sum(1 for email, status in ledger.items() if email in mailbox and status == _SENT)
    failed = sum(1 for email, status in ledger.items() if email not in mailbox and status in _REFUSED)
    astray = sum(1 for email in mailbox if ledger.get(email) != _SENT)
    known_astray = sum(1 for email, status in ledger.items() if email in mailbox and status != _SENT)
    return Account(
        recipients=len(ledger),
        sent=sent,
        failed=failed,
        lost=len(ledger) - sent - failed - known_astray,
        duplicated=sum(copies - 1 for copies in mailbox.values()),
        astray=astray,
    )


def copies(maildir: Maildir, campaign_id: str, since: float) -> tuple[Mapping[str, int], Iterable[str]]:
    """Copies of a campaign's email by address, and the Maildir keys of all of them. Every email names its campaign in
    its headers. Ignores what arrived before `since` (seconds since 1970)."""
    marks = (campaign_id.encode(), campaign_id.replace("-", "").encode())
    found: Counter[str] = Counter()
    keys = []
    for key in maildir.since(since):
        headers = maildir.headers(key)
        if any(mark in headers for mark in marks):
            keys.append(key)
            found.update(
                line.partition(b":")[2].strip().decode()
                for line in headers.split(b"\r\n")
                if line.startswith(b"Delivered-To:")
            )
    return found, keys
