"""SPF by the test suite of RFC 7208, and by cases beyond it. No DNS: answers come from a table."""

from collections.abc import Mapping
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared.deliverability.dns import Address, Dns, DnsError
from shared.deliverability.spf import check_host
from shared.deliverability.spf_record import SpfSyntaxError, parse

SUITE = Path(__file__).parents[1] / "corpus" / "spf" / "rfc7208-tests.yml"
MOST_ALIASES = 10
RESULTS = {"pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"}


class Zone(Dns):
    """Answers from the suite's zone data."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = {name.lower(): records for name, records in data.items()}

    def _records(self, name: str, kind: str, aliases: int = 0) -> list[Any]:
        records = self._data.get(name.rstrip(".").lower(), [])
        alias = next((each["CNAME"] for each in records if isinstance(each, dict) and "CNAME" in each), None)
        if alias is not None:
            return self._records(alias, kind, aliases + 1) if aliases < MOST_ALIASES else []
        kinds = {key for each in records if isinstance(each, dict) for key in each}
        wanted = "SPF" if kind == "TXT" and "TXT" not in kinds else kind  # the suite writes SPF for both
        found = [each[wanted] for each in records if isinstance(each, dict) and wanted in each]
        if "TIMEOUT" in records and (not found or "NONE" in found):
            raise DnsError(f"no answer about {name}")
        return [value for value in found if value != "NONE"]

    async def txt(self, name: str) -> list[str]:
        found = self._records(name, "TXT")
        return ["".join(text) if isinstance(text, list) else str(text) for text in found]

    async def addresses(self, name: str, version: int) -> list[Address]:
        return [ip_address(text) for text in self._records(name, "A" if version == 4 else "AAAA")]

    async def mx(self, name: str) -> list[str]:
        return [host.rstrip(".") or "." for _, host in sorted(self._records(name, "MX"))]

    async def ptr(self, address: Address) -> list[str]:
        return [name.rstrip(".") for name in self._records(address.reverse_pointer, "PTR")]


def cases() -> list[Any]:
    return [
        pytest.param(part["zonedata"], case, id=name)
        for part in yaml.safe_load_all(SUITE.read_text())
        for name, case in part["tests"].items()
    ]


@pytest.mark.parametrize(("zone", "case"), cases())
async def test_the_suite_of_rfc_7208(zone: dict[str, Any], case: dict[str, Any]) -> None:
    sender = case.get("mailfrom", "")
    domain = sender.rpartition("@")[2] or case["helo"]
    found = await check_host(Zone(zone), ip_address(case["host"]), domain, sender, case["helo"])
    wanted = case["result"] if isinstance(case["result"], list) else [case["result"]]
    assert found.result in wanted, found


async def test_a_loop_of_includes_ends() -> None:
    zone = Zone(
        {"a.example": [{"TXT": "v=spf1 include:b.example -all"}], "b.example": [{"TXT": "v=spf1 include:a.example"}]}
    )
    found = await check_host(zone, IPv4Address("192.0.2.1"), "a.example", "x@a.example")
    assert (found.result, found.lookups) == ("permerror", 11)
    assert "more than 10 lookups" in found.reason


async def test_the_reason_names_the_term() -> None:
    zone = Zone({"a.example": [{"TXT": "v=spf1 ip4:192.0.2.0/24 -all"}]})
    found = await check_host(zone, IPv4Address("192.0.2.1"), "a.example", "x@a.example")
    assert (found.result, found.reason) == ("pass", "ip4:192.0.2.0/24 in the record of a.example")


@given(st.text(max_size=200) | st.from_regex(r"v=spf1( [a-z0-9:%{}./=+~?-]{1,20}){1,5}", fullmatch=True))
def test_any_text_is_a_record_or_refused(text: str) -> None:
    try:
        results = {directive.result for directive in parse(text).directives}
    except SpfSyntaxError:
        results = set()
    assert results <= RESULTS
