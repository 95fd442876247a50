"""One budget in bytes for what a sender keeps of campaigns and of the emails on their way."""

from prometheus_client import Gauge

SMALL_EMAIL_BYTES = 64 * 1024
"""Smaller emails never wait for room: the connections bound their number."""


class Memory:
    """Counts bytes of campaigns that are loaded, and of emails in flight, without what these share with their campaign.

    A campaign or an email that is larger than the room there is may still have it all to itself, so nothing waits for
    ever."""

    def __init__(self, limit_bytes: int, gauge: Gauge | None = None) -> None:
        """`gauge` has the label `kind`."""
        self._limit = limit_bytes
        #: Bytes of campaigns, loaded or being loaded.
        self.campaigns = 0
        #: Bytes of emails in flight.
        self.emails = 0
        self._large_emails = 0
        if gauge is not None:
            gauge.labels("campaigns").set_function(lambda: self.campaigns)
            gauge.labels("emails").set_function(lambda: self.emails)

    def has_room_for_campaign(self, size: int) -> bool:
        """Whether a campaign of this size may be loaded."""
        return not self.campaigns or self._used + size <= self._limit

    def has_room_for_email(self, size: int) -> bool:
        """Whether an email of about this size may be made."""
        return size <= SMALL_EMAIL_BYTES or not self._large_emails or self._used + size <= self._limit

    def add_email(self, size: int) -> None:
        self.emails += size
        self._large_emails += size > SMALL_EMAIL_BYTES

    def remove_email(self, size: int) -> None:
        self.emails -= size
        self._large_emails -= size > SMALL_EMAIL_BYTES

    @property
    def _used(self) -> int:
        return self.campaigns + self.emails
