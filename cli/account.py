"""What became of a campaign, counted from both sides: what the ledger says, and what lies in the mailbox."""

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
    """`sent`: the ledger says so and the mailbox has it. `failed`: closed without being sent, and the mailbox has
    nothing. `lost`: neither. `duplicated`: copies beyond the first. `astray`: in the mailbox, though the ledger says
    that it was not sent."""

    recipients: int
    sent: int
    failed: int
    lost: int
    duplicated: int
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
    """How many copies of a campaign's email each address has, and the keys of all of them. Every email names its
    campaign in its headers. `since`: what arrived before this moment (seconds since 1970) is not looked at."""
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
