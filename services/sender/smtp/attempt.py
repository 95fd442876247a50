"""One email on its way through the engine: from the moment it is taken until it is reported."""

import re
from enum import Enum, auto

from services.sender.smtp.contract import Body, Job, Outcome, Verdict
from shared.faults.meaning import Consequence
from shared.relays.replies import Reply, Stage, queue_id_in

_ADDRESS = re.compile(r"[^\x00-\x20\x7f-\x9f<>\u2028\u2029]+")


class BadAddressError(ValueError):
    """An address that must not be put into an SMTP command."""


class Failure(Enum):
    """Why an email comes back from a connection without having been accepted."""

    REFUSED = auto()  # 4xx or 5xx
    AMBIGUOUS = auto()  # body bytes left, and no reply will come
    INTERRUPTED = auto()  # the relay fell silent or hung up at this email's step; it cannot have been delivered
    DISPLACED = auto()  # the connection ended or hangs, but at a step of the email before this one
    WITHDRAWN = auto()  # it is not to leave: the job or the caller said so
    TOO_BIG = auto()  # larger than the relay takes; no byte of the body has left
    UNMADE = auto()  # the job could not make its body, or could not say whether it may leave


class Attempt:
    """A job, its clock, and what has been tried."""

    __slots__ = ("avoid", "body", "closed_on", "envelope", "failure", "job", "provider", "smtputf8", "started", "tries")

    def __init__(self, job: Job, started: float, provider: str = "") -> None:
        self.job = job
        #: Who runs the recipient's mailbox.
        self.provider = provider
        #: When it was taken, by the event loop's clock.
        self.started = started
        #: Failures so far that another relay or connection may put right.
        self.tries = 0
        #: Connections that the relay closed with 421 at a step of this email.
        self.closed_on = 0
        #: Names of the relays that failed this email.
        self.avoid: frozenset[str] = frozenset()
        #: Its outcome if no other relay can be tried.
        self.failure: Outcome | None = None
        #: None until it is made; kept when the email moves to another connection.
        self.body: Body | None = None
        self.smtputf8 = job.smtputf8
        #: MAIL, RCPT and DATA as they go over the wire.
        self.envelope = _envelope(job.mail_from, job.rcpt_to, self.smtputf8)

    @property
    def body_size(self) -> int:
        """Octets of the body; 0 until it is made."""
        if self.body is None or isinstance(self.body, bytes):
            return len(self.body or b"")
        return sum(map(len, self.body))

    def envelope_for(self, *, verp: bool, sized: bool) -> bytes:
        """The envelope: for a relay with `verp`, with the token in MAIL FROM; `sized`, with the size of the body there,
        if it is made (RFC 1870), so that a relay can refuse early."""
        envelope = self.envelope
        if verp and self.job.token_from:
            envelope = _envelope(self.job.token_from, self.job.rcpt_to, self.smtputf8)
        if not sized or self.body is None:
            return envelope
        return envelope.replace(b"\r\n", b" SIZE=%d\r\n" % self.body_size, 1)

    def outcome(
        self,
        verdict: Verdict,
        relay: str,
        stage: Stage | None,
        reply: Reply,
        now: float,
        consequence: Consequence | None = None,
    ) -> Outcome:
        """The outcome of this attempt, with `reply` as its reason."""
        text = reply.text
        return Outcome(
            verdict,
            relay,
            stage,
            reply.code or None,
            reply.enhanced,
            text,
            queue_id_in(text) if verdict is Verdict.ACCEPTED else None,
            consequence,
            seconds=now - self.started,
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
