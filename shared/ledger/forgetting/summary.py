"""The summary of a campaign whose results are deleted: its most frequent refusals and returns.

It grows with each deletion, in the same transaction, so that no recipient is read twice or missed.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import orjson

from shared.reply_text import general

GROUPS_KEPT = 50
"""Of the most frequent; a rare one among thousands may get lost."""

TEXT_CHARACTERS = 200


class Refusal(NamedTuple):
    """What recipients got who have the same status, or came back for the same reason."""

    #: The status of the recipients, or the kind of the reports.
    status: str
    #: Such as `550 5.1.1`; empty if there was no reply.
    code: str
    #: The reply, with `…` for what only one email has; of reports, the reason.
    text: str
    #: Recipients or reports.
    number: int


_Kind = tuple[str, str, str]


def kind_of(status: str, code: int | None, enhanced: str | None, reply: str | None) -> _Kind:
    """What a recipient or report counts under."""
    return status, " ".join(str(part) for part in (code, enhanced) if part), general(reply or "")[:TEXT_CHARACTERS]


def added(kept: str, kinds: Iterable[_Kind]) -> str:
    """The JSON of `ForgottenCampaign.refusals`, with these counted, too."""
    counter: Counter[_Kind] = Counter()
    for status, code, text, number in orjson.loads(kept):
        counter[status, code, text] = number
    counter.update(kinds)
    return orjson.dumps([[*kind, number] for kind, number in counter.most_common(GROUPS_KEPT)]).decode()


def refusals(kept: str) -> list[Refusal]:
    """The groups, the most frequent first."""
    return [Refusal(*one) for one in orjson.loads(kept)]
