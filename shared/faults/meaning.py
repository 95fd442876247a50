"""The words of the table: whose fault it is, what follows."""

from enum import StrEnum


class Fault(StrEnum):
    """Who a refusal is charged to."""

    RECIPIENT = "recipient"
    PROVIDER = "provider"  # the recipient's domain, at this relay
    CONNECTION = "connection"
    RELAY = "relay"  # its host, or our account there
    CAMPAIGN = "campaign"  # its sender or its content


class Consequence(StrEnum):
    """What follows from a refusal. Each belongs to one fault."""

    RETRY = "retry"  # the recipient spends an attempt and is tried again on the retry schedule
    FAIL = "fail"  # the recipient fails; the address stays usable
    SUPPRESS = "suppress"  # the recipient fails, and the address is suppressed: there is no such mailbox
    HOLD = "hold"  # the provider refuses us for now: the email waits and spends no attempt
    REROUTE = "reroute"  # the provider blocks this relay's address: another relay is tried, else the email is held
    RECONNECT = "reconnect"  # only this connection ends: another one is tried, and then it is the recipient's matter
    SLOW = "slow"  # the relay wants less: fewer connections and a pause
    REST = "rest"  # the relay or our account there cannot be used: it rests, the next relay is tried
    PAUSE = "pause"  # the campaign pauses now: its sender is refused
    SPREAD = "spread"  # the recipient fails; the campaign pauses when enough recipients got the same

    @property
    def fault(self) -> Fault:
        """Whose fault leads to this."""
        return FAULTS[self]


FAULTS = {
    Consequence.RETRY: Fault.RECIPIENT,
    Consequence.FAIL: Fault.RECIPIENT,
    Consequence.SUPPRESS: Fault.RECIPIENT,
    Consequence.HOLD: Fault.PROVIDER,
    Consequence.REROUTE: Fault.PROVIDER,
    Consequence.RECONNECT: Fault.CONNECTION,
    Consequence.SLOW: Fault.RELAY,
    Consequence.REST: Fault.RELAY,
    Consequence.PAUSE: Fault.CAMPAIGN,
    Consequence.SPREAD: Fault.CAMPAIGN,
}
