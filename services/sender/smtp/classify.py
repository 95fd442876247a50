"""What a refusal means: for the recipient, for the campaign, for the relay.

The first rule of `TABLE` that fits decides. A rule looks at the stage, the enhanced code (RFC 3463) and the basic code
(RFC 5321, 4.2.3); at the words of the reply only where codes are silent. The classes follow KumoMTA's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.sender.smtp.contract import Verdict
from shared.relays.replies import Reply, Stage

ANY = frozenset(Stage)
ENTRY = frozenset({Stage.CONNECT, Stage.BANNER, Stage.EHLO, Stage.TLS, Stage.AUTH})
MAIL = frozenset({Stage.MAIL})
RCPT = frozenset({Stage.RCPT})
RECIPIENT = frozenset({Stage.RCPT, Stage.DATA, Stage.BODY, Stage.DOT})

NO_CODE = r"(?!.)"  # fits only where the reply carries no enhanced code
SLOW_DOWN = r"too (many|much|fast)|rate.?limit|throttl|slow down|sending (limit|quota)|per (second|minute|hour|day)"
MAILBOX_FULL = r"(mailbox|inbox|quota).{0,40}(full|exceed|over)|(full|over|exceed\w*).{0,20}(mailbox|inbox|quota)"
NO_MAILBOX = (
    r"no such (user|mailbox|recipient|address|person|account)|no mailbox here"
    r"|unknown (local )?(user|recipient|mailbox|address)"
    r"|(user|recipient|mailbox|address|account)\b.{0,80}\b(unknown|not found|do(es)? ?n[o']t exist)"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: where it applies, what it means. `enhanced` and `code` match whole, `words` anywhere."""

    why: str
    verdict: Verdict
    stages: frozenset[Stage] = ANY
    enhanced: str = ".*"
    code: str = "..."
    words: str = ""
    suppress: bool = False

    def fits(self, stage: Stage, code: str, enhanced: str, text: str) -> bool:
        """Whether this row decides."""
        return (
            stage in self.stages
            and re.fullmatch(self.enhanced, enhanced) is not None
            and re.fullmatch(self.code, code) is not None
            and re.search(self.words, text, re.IGNORECASE) is not None
        )


T, P, SENDER, RELAY, SLOW = (
    Verdict.TRANSIENT,
    Verdict.PERMANENT,
    Verdict.SENDER_REFUSED,
    Verdict.RELAY_FAULT,
    Verdict.THROTTLED,
)

TABLE: Sequence[Rule] = (
    # The relay speaks of itself.
    Rule("it goes away, or wants less", SLOW, code="421"),
    Rule("policy for now: rate, greylist, reputation", SLOW, enhanced=r"4\.7\..*"),
    Rule("the account's sending quota is used up", SLOW, enhanced=r"[45]\.4\.5"),
    Rule("it does not let us in", RELAY, ENTRY),
    Rule("it wants other credentials, or TLS", RELAY, code="53[0458]"),
    Rule("it lost the thread of the dialogue", RELAY, code="503"),
    Rule("its disk is full or it is down for now", SLOW, enhanced=r"4\.3\.[12]"),
    Rule("its disk is full", SLOW, MAIL, NO_CODE, code="452"),
    # The mailbox.
    Rule("full: may be emptied", T, RECIPIENT, enhanced=r"[45]\.2\.2"),
    Rule("does not exist", P, RECIPIENT, r"5\.1\.([12346]|10)|5\.2\.1|5\.7\.13", "5..", suppress=True),
    # Codes are silent: the words.
    Rule("it says that we are too fast", SLOW, code="4..", words=SLOW_DOWN),
    Rule("full, in words", T, RECIPIENT, NO_CODE, "55[02]", MAILBOX_FULL),
    Rule("does not exist, in words", P, RCPT, NO_CODE, "55[0134]", NO_MAILBOX, suppress=True),
    # The rest. Policy, content and reputation end here: never the address's fault.
    Rule("not now", T, code="4.."),
    Rule("this sender is refused", SENDER, MAIL, code="5.."),
    Rule("this email is refused", P, code="5.."),
)


def classify(stage: Stage, reply: Reply) -> tuple[Verdict, bool]:
    """The verdict on an email that was refused at `stage` with `reply` (4xx or 5xx), and whether to suppress."""
    rule = rule_for(stage, reply.code, reply.enhanced or "", reply.text)
    return rule.verdict, rule.suppress


@lru_cache(maxsize=1024)
def rule_for(stage: Stage, code: int, enhanced: str, text: str) -> Rule:
    """The row of the table that decides. A code outside 4xx and 5xx where a refusal stood is the relay's confusion."""
    for rule in TABLE:
        if rule.fits(stage, str(code), enhanced, text):
            return rule
    return CONFUSED


CONFUSED = Rule("not a refusal at all", RELAY)
