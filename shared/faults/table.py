"""The table of refusals. The first row that fits a reply decides whose fault it is and what follows.

The enhanced code comes first (RFC 3463), then the basic code (RFC 5321, 4.2.3), both read together with the stage.
Words can soften a code, and name an account, a sender or a blocked address; they decide alone only where codes say
little.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.faults import words as said
from shared.faults.meaning import Consequence
from shared.relays.replies import Stage

ENTRY = frozenset({Stage.CONNECT, Stage.BANNER, Stage.EHLO, Stage.TLS, Stage.AUTH})
MAIL = frozenset({Stage.MAIL})
RCPT = frozenset({Stage.RCPT})
MESSAGE = frozenset({Stage.DATA, Stage.BODY, Stage.DOT})
REPORT = frozenset({Stage.REPORT})
NAMED = RCPT | MESSAGE | REPORT  # the recipient has been named: a reply may be about it
DIALOGUE = MAIL | RCPT | MESSAGE
ANY = ENTRY | MAIL | NAMED

SAYS_LITTLE = "none 5.0.0 5.1.0 5.2.0 5.3.0 5.5.0 5.7.1"  # enhanced codes that leave the meaning to the words

SAYS_GONE = (
    f"{SAYS_LITTLE} 5.1.1-4 5.1.6 5.1.10 5.2.1 5.4.1 5.7.13 5.7.504"  # that some row takes for "no such mailbox"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row. It fits where stage, codes and any one of the phrases fit; what is left empty fits everything."""

    #: What a server means by it, as shown to people.
    why: str
    consequence: Consequence
    stages: frozenset[Stage]
    #: Basic codes, separated by spaces: `421`, `4xx`.
    code: str = ""
    #: Enhanced codes, separated by spaces: `5.1.1`, `x.2.2` (either class), `5.7.606-649`, `5.6.*`, `none`.
    enhanced: str = ""
    #: Phrases of `words.py`.
    words: said.Words = ()
    #: Whether the same said to several recipients of a provider means that the provider refuses us.
    suspect_provider: bool = False


C = Consequence

TABLE: Sequence[Row] = (
    # Before MAIL the server can only mean the relay itself.
    Row("it wants fewer connections, or is busy", C.SLOW, ENTRY, "421"),
    Row("it wants fewer connections, or is busy", C.SLOW, ENTRY, "4xx", words=said.RATE),
    Row("it does not let us in", C.REST, ENTRY),
    # Whatever the code says: it asks for patience, or refuses this sender for this one recipient.
    Row("greylisted", C.RETRY, MAIL | NAMED, words=said.GREYLISTED),
    Row("the recipient does not accept mail from us", C.FAIL, NAMED, "5xx", words=said.RESTRICTED),
    # The sender.
    Row("the sender's domain cannot be checked now", C.RETRY, MAIL | NAMED, "4xx", words=said.SENDER),
    Row("the sender is refused", C.PAUSE, MAIL | NAMED, "5xx", words=said.SENDER),
    # The address of the relay.
    Row("the sender's domain is not trusted", C.HOLD, NAMED, words=said.DOMAIN_REPUTATION),
    Row("the content is refused: a link or a pattern in it is listed", C.SPREAD, NAMED, "5xx", words=said.BLOCKED_LINK),
    Row("the sender's address or domain is listed", C.SPREAD, NAMED, "5xx", words=said.SENDER_LISTED),
    Row("the relay's address is blocked", C.REROUTE, NAMED, words=said.BLOCKLISTED),
    Row("the relay's address is blocked", C.REST, MAIL, "5xx", words=said.BLOCKLISTED + said.REPUTATION),
    Row("the mailbox receives too much at once", C.RETRY, NAMED, words=said.RECEIVES_TOO_FAST),
    # Our account at the relay.
    Row("the recipient's server does not take mail for this domain", C.FAIL, REPORT, "5xx", words=said.RELAYING),
    Row("our account is refused, or has reached its limit", C.REST, MAIL | NAMED, words=said.ACCOUNT),
    Row("our account is refused, or has reached its limit", C.REST, DIALOGUE, "5xx", "5.4.5 5.1.90 5.7.57 5.7.64"),
    Row("our account is banned for spam", C.REST, DIALOGUE, "5xx", "5.7.501-503 5.7.705 5.7.708 5.7.750 5.7.800"),
    Row("it wants credentials, or TLS", C.REST, DIALOGUE, "530 534 535 538"),
    Row("it lost the thread of the dialogue", C.REST, DIALOGUE, "503"),
    Row("the relay wants less", C.SLOW, DIALOGUE, words=said.RELAY_RATE),
    # Words that soften whatever the code says: the mailbox exists.
    Row("the mailbox is full", C.RETRY, NAMED, words=said.FULL),
    Row("the mailbox receives too much at once", C.RETRY, NAMED, enhanced="x.2.121-122"),
    Row("the message is too large", C.FAIL, MAIL | NAMED, "5xx", words=said.TOO_LARGE),
    Row("the message is too large", C.FAIL, MAIL | NAMED, "5xx", "5.3.4 5.2.3"),
    Row("the message is too large", C.FAIL, MAIL, "552"),
    # The content.
    Row("the content is suspicious, for now", C.HOLD, NAMED, "4xx", words=said.CONTENT),
    Row("the content is refused", C.SPREAD, NAMED, "5xx", words=said.CONTENT),
    Row("the content is refused", C.SPREAD, NAMED, "5xx", "5.7.512 5.7.7"),
    # The provider does not trust the address or the authentication, or wants less.
    Row("the relay's address is blocked", C.REROUTE, NAMED, "5xx", "5.7.25 5.7.28 5.7.511 5.7.513 5.7.606-649"),
    Row("the relay's address is not trusted", C.REROUTE, NAMED, "5xx", words=said.REPUTATION),
    Row("the relay's address is not trusted for now", C.HOLD, NAMED, "4xx", words=said.REPUTATION),
    Row("the sender's authentication is not accepted", C.HOLD, NAMED, "", "x.7.20-24 x.7.26-32 x.7.40 x.7.509 x.7.515"),
    Row("the sender's authentication is not accepted", C.HOLD, NAMED, words=said.UNAUTHENTICATED),
    Row("the provider wants less", C.HOLD, NAMED, "", "4.7.28 4.7.500-899 5.7.508"),
    Row("the provider wants less", C.HOLD, NAMED, words=said.RATE),
    Row("the relay wants less", C.SLOW, MAIL, words=said.RATE),
    # The connection, and the relay for now.
    Row("it closes the connection", C.RECONNECT, MAIL | NAMED, "421", suspect_provider=True),
    Row("the relay is short of something", C.SLOW, MAIL | MESSAGE, "4xx", words=said.DISK),
    Row("the relay is short of something", C.SLOW, MAIL, "452"),
    Row("the relay is short of something", C.SLOW, MAIL, "4xx", "4.3.*"),
    Row("the relay is short of something", C.SLOW, RCPT | MESSAGE, "4xx", "4.3.1 4.3.5 4.4.5"),
    Row("policy for now", C.SLOW, MAIL, "4xx", "4.7.*"),
    # The mailbox.
    Row("it says that a later try may succeed", C.RETRY, NAMED, "5xx", words=said.LATER),
    Row("the mailbox is full", C.RETRY, NAMED, enhanced="x.2.2 5.3.1"),
    Row("codes that disagree: storage, and no such mailbox", C.FAIL, NAMED, "552", "5.1.1"),
    Row("the recipient accepts some senders only", C.FAIL, NAMED, "5xx", "5.7.12 5.7.124 5.7.133-136 5.7.505 5.7.507"),
    Row("words of rate, quota, storage or size: the mailbox exists", C.RETRY, NAMED, "5xx", SAYS_GONE, said.VETO),
    Row("no such mailbox", C.SUPPRESS, NAMED, "5xx", "5.1.1-4 5.1.6 5.1.10 5.2.1 5.7.13 5.7.504"),
    Row("no such mailbox", C.SUPPRESS, NAMED, "5xx", "5.4.1", said.NOT_IN_DIRECTORY),
    Row("no such mailbox", C.SUPPRESS, NAMED, "5xx", "5.5.0", ("mailbox unavailable",)),
    Row("the mailbox is disabled", C.FAIL, NAMED, "5xx", words=said.DISABLED),
    Row("the sender's address is refused", C.SPREAD, NAMED, "5xx", SAYS_LITTLE, said.SENDER_NAMED),
    Row("no such mailbox, in words", C.SUPPRESS, NAMED, "5xx", SAYS_LITTLE, said.NO_MAILBOX),
    Row("the domain cannot be reached", C.FAIL, NAMED, "5xx", words=said.NO_HOST + said.LOOPS),
    Row("this recipient is refused", C.FAIL, NAMED, "5xx", words=("recipient address rejected",)),
    # The rest.
    Row("policy for now: greylisting, rate or reputation", C.RETRY, NAMED, "4xx", "4.7.*", suspect_provider=True),
    Row("not now", C.RETRY, MAIL | NAMED, "4xx"),
    Row("the address cannot be carried", C.FAIL, MAIL | NAMED, "5xx", "5.6.7"),
    Row("this sender is refused", C.PAUSE, MAIL, "5xx"),
    Row("the sender's address is refused", C.SPREAD, NAMED, "5xx", "5.1.7-8"),
    Row("the recipient's server cannot take it", C.FAIL, NAMED, "5xx", "5.3.* 5.4.* 5.7.2 5.7.17-18"),
    Row("policy", C.SPREAD, RCPT | MESSAGE, "5xx", "5.7.* 5.6.*"),
    Row("this email is refused", C.SPREAD, MESSAGE, "5xx"),
    Row("this recipient is refused", C.FAIL, RCPT | REPORT, "5xx"),
)

NOT_A_REFUSAL = Row("not a refusal: the relay lost the thread of the dialogue", C.REST, ANY)
