"""Where a mail server under test sends what it has taken: what both Postfix and Exim are set up from."""

from dataclasses import dataclass
from typing import Literal

BOUNCES = "bounces.example.com"
REMOTE = ("gone.example.net", "full.example.net", "policy.example.net", "slow.example.net", "well.example.net")
"""Domains that the mail server takes mail for without asking, and sends on."""


@dataclass(frozen=True)
class Onward:
    """Ports on this machine."""

    #: Takes or refuses what is for `REMOTE`.
    remote_port: int
    #: A door of the feedback service: what is for `BOUNCES`.
    door_port: int
    door: Literal["lmtp", "smtp"] = "lmtp"
