"""Which addresses a webhook may go to: public ones, and those of networks that a setting allows."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

_GLOBAL_V6 = IPv6Network("2000::/3")
_TUNNELS = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))  # 6to4 (RFC 3056) and Teredo (RFC 4380)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052


def parse_networks(text: str) -> Sequence[Network]:
    """Networks separated by commas or spaces. Raises ValueError."""
    return [ip_network(part) for part in text.replace(",", " ").split()]


def may_connect(address: str, allowed: Sequence[Network]) -> bool:
    """Whether a webhook may go to an address, as text, possibly with a zone (`fe80::1%eth0`)."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = _inner(ip)
    return is_allowed(address, allowed) or _is_public(ip if inner is None else inner)


def is_allowed(address: str, allowed: Sequence[Network]) -> bool:
    """Whether the address is in a network that the setting names."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in allowed if network.version == ip.version)


def _inner(ip: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this IPv6 address reaches in the end."""
    if not isinstance(ip, IPv6Address):
        return None
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped


def _is_public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv6Address) and (ip not in _GLOBAL_V6 or any(ip in tunnel for tunnel in _TUNNELS)):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
