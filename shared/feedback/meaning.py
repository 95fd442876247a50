"""The words of a report."""

from dataclasses import dataclass
from enum import StrEnum

from shared.faults.judge import Judgement, judge
from shared.relays.replies import Stage


class Kind(StrEnum):
    """What a report says of an email."""

    BOUNCED = "bounced"  # it was not delivered, and will not be
    DELAYED = "delayed"  # it is still being tried
    DELIVERED = "delivered"  # it was delivered, or handed on to a server that sends no reports
    COMPLAINED = "complained"  # its recipient calls it spam
    UNSUBSCRIBED = "unsubscribed"  # its recipient wants no more of them
    AUTO_REPLY = "auto_reply"  # a program answers for a person (RFC 3834), or a receipt: nothing follows
    UNKNOWN = "unknown"  # a person has to read it


REFUSED_CODE = 550
"""Stands for a failure that names no code."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a report says, before anyone knows whether it is true."""

    kind: Kind
    #: Texts that may be tokens of ours (`shared.email_tokens`, `shared.unsubscribe`), the most telling first.
    tokens: tuple[str, ...] = ()
    #: Basic code (RFC 5321) and enhanced code (RFC 3463) of the refusal; 0 and None if it names none.
    code: int = 0
    enhanced: str | None = None
    #: The words of the refusal, or of the complaint.
    text: str = ""
    #: The addresses that it is about, as it writes them: the original recipient and the final one.
    addresses: tuple[str, ...] = ()
    #: Who reports: the name of a server, or a provider.
    reporter: str = ""
    #: If it names several recipients: what it says of each, the worst first. The fields above are those of the worst.
    of_each: tuple["Found", ...] = ()

    def judgement(self) -> Judgement | None:
        """Whose fault a bounce or a delay is, and what it means; None for other reports."""
        if self.kind not in (Kind.BOUNCED, Kind.DELAYED):
            return None
        code = self.code or (0 if self.enhanced else REFUSED_CODE)
        return judge(Stage.REPORT, code, self.text, self.enhanced)
