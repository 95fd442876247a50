"""The check of a domain: what may be said about it, and the results."""

from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from pydantic import BaseModel, Field

from services.api.shapes.common import Body, Shown

MOST_ADDRESSES = 20


class DomainCheckIn(Body):
    """How the domain's mail leaves. The API knows neither the relays nor the DKIM keys."""

    envelope_domain: str | None = Field(
        None, max_length=253, description="Domain of the envelope sender. Default: the domain itself.", examples=[None]
    )
    egress: list[IPv4Address | IPv6Address] = Field(
        [], max_length=MOST_ADDRESSES, description="Addresses its mail leaves from.", examples=[["192.0.2.5"]]
    )


class DomainFinding(Shown):
    name: str = Field(examples=["DMARC"])
    verdict: Literal["ok", "wrong", "unknown"] = Field(description="`unknown`: something is missing to know.")
    found: str = Field(examples=["p=none at _dmarc.example.com, organizational domain example.com"])
    advice: str = Field(description="What to do; may be empty.")


class DomainCheckOut(BaseModel):
    domain: str = Field(examples=["example.com"])
    ok: bool = Field(description="False if a finding is `wrong`.")
    findings: list[DomainFinding]
