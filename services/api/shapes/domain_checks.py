"""The check of a domain: what may be said about it, and the results."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from services.api.shapes.common import Body, Shown

MOST_ADDRESSES = 20


def _address(value: Any) -> IPv4Address | IPv6Address:
    try:
        return ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError("must be an IP address, such as 192.0.2.5 or 2001:db8::5") from None


Address = Annotated[
    IPv4Address | IPv6Address, PlainValidator(_address), WithJsonSchema({"type": "string", "format": "ip"})
]


class DomainCheckIn(Body):
    """How the domain's mail leaves, if it is not as the senders say."""

    envelope_domain: str | None = Field(
        None, max_length=253, description="Domain of the envelope sender. Default: the domain itself.", examples=[None]
    )
    egress: list[Address] = Field(
        [],
        max_length=MOST_ADDRESSES,
        description="Addresses its mail leaves from. Default: those of the relays.",
        examples=[["192.0.2.5"]],
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
