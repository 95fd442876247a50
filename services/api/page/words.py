"""Numbers, moments and statuses in words: the filters of the templates."""

import math
from datetime import UTC, datetime

from markupsafe import Markup

from shared.ledger.states import CampaignStatus, RecipientStatus

STATUS_WORDS = {
    CampaignStatus.DRAFT: "Draft",
    CampaignStatus.SCHEDULED: "Scheduled",
    CampaignStatus.QUEUED: "Queued",
    CampaignStatus.SENDING: "Sending",
    CampaignStatus.PAUSED: "Paused",
    CampaignStatus.STOPPING: "Stopping",
    CampaignStatus.FINISHED: "Finished",
    CampaignStatus.FAILED: "Failed",
    CampaignStatus.CANCELLED: "Cancelled",
    CampaignStatus.EXPIRED: "Expired",
}

RECIPIENT_WORDS = {
    RecipientStatus.SENT: ("Sent", "a relay has accepted the email"),
    RecipientStatus.PENDING: ("Waiting", "not tried yet, or to be tried again"),
    RecipientStatus.DEFERRED: ("To be retried", "refused for now, or the connection was lost"),
    RecipientStatus.FAILED: ("Failed", "refused for good, or the retries are used up"),
    RecipientStatus.UNKNOWN: ("Unknown", "the relay did not reply after the email, so it may or may not have arrived"),
    RecipientStatus.SUPPRESSED: ("Suppressed", "on the project's suppression list"),
    RecipientStatus.EXPIRED: ("Expired", "not sent in time, so never sent"),
    RecipientStatus.CANCELLED: ("Cancelled", "the campaign was cancelled before they were sent to"),
}
"""A word and its meaning, in the order in which they are shown."""

AT_THE_END = (RecipientStatus.PENDING,)
"""What a progress bar leaves empty."""


def number(value: float | None) -> str:
    """`12,345`, `7.5`, `0.04`: small numbers with decimals."""
    if value is None:
        return "–"
    if value == int(value) or value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{max(value, 0.01):.2f}".rstrip("0")


def share(part: float, whole: float) -> float:
    """Percent; 0 and 100 only if it is exactly that."""
    if whole <= 0:
        return 0.0
    percent = part * 100 / whole
    return min(max(round(percent, 1), 0.1), 99.9) if 0 < part < whole else round(percent, 1)


def percent(part: float, whole: float) -> str:
    """`63%`, `99.9%`, `0.1%`."""
    value = share(part, whole)
    rounded = round(value)
    return f"{value:.1f}%" if (rounded in (0, 100) and value != rounded) or 0 < value < 1 else f"{rounded}%"


def lasting(seconds: float | None) -> str:
    """`0.8 s`, `42 s`, `3 min 20 s`, `5 h 12 min`, `3 d 4 h`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    total = math.floor(seconds + 0.5)
    for size, unit, smaller, smaller_unit in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= size:
            rest = total % size // smaller
            return f"{total // size} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
    return f"{total} s"


def moment(value: datetime | float | None) -> Markup:
    """A moment as `<time>`: UTC for a reader without scripts, the reader's own time with them."""
    if value is None:
        return Markup("–")
    at = datetime.fromtimestamp(value, UTC) if isinstance(value, float | int) else value.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        at.isoformat(timespec="seconds").replace("+00:00", "Z"), at.strftime("%Y-%m-%d %H:%M:%S")
    )


def plural(count: float, one: str, many: str = "") -> str:
    """`1 email`, `2 emails`."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"
