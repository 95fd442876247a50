"""What a report says of the recipient of our email: if a list or an alias sends emails on, it may name several."""

from collections.abc import Sequence
from dataclasses import replace

from shared.addresses import AddressError, parse_address
from shared.feedback.meaning import Found


def about(found: Found, email_key: str) -> Found:
    """What a report says of one recipient: the worst of what names that address, else the worst of all.

    `email_key`: see shared.addresses."""
    if names(found.addresses, email_key):
        return found
    for one in found.of_each:
        if names(one.addresses, email_key):
            return replace(one, tokens=found.tokens, reporter=found.reporter)
    return found


def names(written: Sequence[str], email_key: str) -> bool:
    """Whether one of the addresses is the recipient's. Servers rewrite domains, and drop what follows `+`."""
    local = _local(email_key)
    for text in written:
        try:
            key = parse_address(text).key
        except AddressError:
            continue
        if key == email_key or _local(key) == local:
            return True
    return False


def _local(email_key: str) -> str:
    return email_key.rpartition("@")[0].partition("+")[0]
