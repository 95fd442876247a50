"""One email on its way through the engine: from the moment it is taken until it is reported."""

import re

from services.sender.smtp.contract import Job, Outcome, Verdict
from shared.relays.replies import Reply, Stage

_ADDRESS = re.compile(r"[^\x00-\x20\x7f-\x9f<>\u2028\u2029]+")


class BadAddressError(ValueError):
    """An address that must not be put into an SMTP command."""


class Attempt:
    """A job, its clock, and what has been tried. `envelope` is MAIL, RCPT and DATA as they go over the wire."""

    __slots__ = ("avoid", "body", "envelope", "failure", "job", "smtputf8", "started", "tries")

    def __init__(self, job: Job, started: float) -> None:
        self.job = job
        self.started = started
        self.tries = 0
        self.avoid: frozenset[str] = frozenset()  # relays that failed this email
        self.failure: Outcome | None = None  # what it comes to if no other relay can be tried
        self.body: bytes | None = None  # kept when the email moves to another connection
        self.smtputf8 = job.smtputf8
        self.envelope = _envelope(job.mail_from, job.rcpt_to, self.smtputf8)

    def sized_envelope(self) -> bytes:
        """The same, with the size of the body at MAIL where that is known (RFC 1870): a relay then refuses early."""
        if self.body is None:
            return self.envelope
        return self.envelope.replace(b"\r\n", b" SIZE=%d\r\n" % len(self.body), 1)

    def outcome(
        self, verdict: Verdict, relay: str, stage: Stage | None, reply: Reply, now: float, *, suppress: bool = False
    ) -> Outcome:
        """What `reply` makes of this attempt."""
        accepted = verdict is Verdict.ACCEPTED
        return Outcome(
            verdict,
            relay,
            stage,
            reply.code or None,
            reply.enhanced,
            reply.text,
            reply.queue_id if accepted else None,
            suppress,
            now - self.started,
        )


def _envelope(mail_from: str, rcpt_to: str, smtputf8: bool) -> bytes:
    if not _ADDRESS.fullmatch(rcpt_to) or (mail_from and not _ADDRESS.fullmatch(mail_from)):
        raise BadAddressError("the address holds a character that SMTP cannot carry")
    if smtputf8:
        return f"MAIL FROM:<{mail_from}> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<{rcpt_to}>\r\nDATA\r\n".encode()
    try:
        return f"MAIL FROM:<{mail_from}>\r\nRCPT TO:<{rcpt_to}>\r\nDATA\r\n".encode("ascii")
    except UnicodeEncodeError:
        raise BadAddressError("the address needs SMTPUTF8, and the email does not ask for it") from None
