"""What names one email, and cannot be forged: its unsubscribe link, its Message-ID, its MAIL FROM, its `mailto:`.

One HMAC-SHA256 over campaign and recipient serves them all. Its first 18 octets sign the link, as in release 0.1.0
(`shared/unsubscribe.py`); the next 12 sign the mail token: 32 characters of base32 without case (RFC 4648, section 6)
that hold the signature and the recipient's id. The id is masked, so that a token does not show how many emails were
sent. Reading a token needs the ledger, which knows the recipient's campaign.
"""

import hmac
import re
from base64 import b32decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple
from uuid import UUID

from shared.unsubscribe import PURPOSE

TOKEN_CHARACTERS = 32
# Without ASCII, `k` and `s` would also match the Kelvin sign and the long s.
TOKEN = re.compile(rf"[a-z2-7]{{{TOKEN_CHARACTERS}}}", re.IGNORECASE | re.ASCII)

BOUNCE, UNSUBSCRIBE = "bounce+", "unsubscribe+"
"""What stands before the token in an address at a bounce domain. Greylisters ignore what follows `bounce+`."""

_LINK_OCTETS = 18
_TAG_OCTETS = 12
_ALPHABET = bytes.maketrans(bytes(range(32)), b"abcdefghijklmnopqrstuvwxyz234567")
_LARGEST_ID = 2**63 - 1


class EmailTokens(NamedTuple):
    """The tokens of one email."""

    link: str
    mail: str


class Named(NamedTuple):
    """The recipient that a mail token names if `secret` has made it: `is_genuine` says whether it has."""

    secret: bytes
    recipient_id: int
    tag: bytes


class TokenMaker:
    """Makes the tokens of one campaign."""

    def __init__(self, secret: bytes, campaign_id: UUID) -> None:
        self._campaign = campaign_id.bytes
        # To copy what is the same for all recipients takes less time than to begin again.
        self._signature = hmac.new(secret, PURPOSE + self._campaign, "sha256")
        self._mask_state = _mask_state(secret)

    def make(self, recipient_id: int) -> EmailTokens:
        """The tokens of one recipient (0 <= recipient_id < 2**63)."""
        octets = _eight_octets(recipient_id)
        signature = self._signature.copy()
        signature.update(octets)
        signed = signature.digest()
        tag = signed[_LINK_OCTETS : _LINK_OCTETS + _TAG_OCTETS]
        number = (recipient_id ^ _mask(self._mask_state, tag)) << 96 | int.from_bytes(tag, "big")
        return EmailTokens(
            urlsafe_b64encode(self._campaign + octets + signed[:_LINK_OCTETS]).decode("ascii"),
            _base32(number),
        )


_eight_octets = Struct(">Q").pack


def _halves(characters: int) -> tuple[int, int, int]:
    """For numbers that hold so many characters in as many octets, again and again, with their bits (5 for each) at the
    end: masks of the lower and the upper half of these bits, and the distance from the upper half to its octets."""
    half = characters // 2
    lower = sum((2 ** (5 * half) - 1) << (8 * start) for start in range(0, TOKEN_CHARACTERS, characters))
    return lower, lower << 5 * half, 3 * half


_HALVES = tuple(_halves(characters) for characters in (32, 16, 8, 4, 2))


def _base32(bits: int) -> str:
    """160 bits as 32 characters. base64.b32encode would take longer than all of `make`."""
    for lower, upper, distance in _HALVES:
        bits = bits & lower | (bits & upper) << distance
    return bits.to_bytes(TOKEN_CHARACTERS, "big").translate(_ALPHABET).decode("ascii")


def named_by(secrets: Sequence[bytes], token: str) -> Iterator[Named]:
    """Whom a mail token names, for each secret that may have made it; nothing if the text is no mail token."""
    if not TOKEN.fullmatch(token):
        return
    octets = b32decode(token, casefold=True)
    masked, tag = int.from_bytes(octets[:8], "big"), octets[8:]
    for secret in secrets:
        recipient_id = masked ^ _mask(_mask_state(secret), tag)
        if 0 < recipient_id <= _LARGEST_ID:
            yield Named(secret, recipient_id, tag)


def is_genuine(named: Named, campaign_id: UUID) -> bool:
    """Whether the secret has made the token: `campaign_id` is the campaign of that recipient in the ledger."""
    payload = campaign_id.bytes + named.recipient_id.to_bytes(8, "big")
    signed = hmac.digest(named.secret, PURPOSE + payload, "sha256")
    return hmac.compare_digest(named.tag, signed[_LINK_OCTETS : _LINK_OCTETS + _TAG_OCTETS])


def _mask_state(secret: bytes) -> blake2b:
    """What masks with this secret begin with: setting it up takes longer than the rest of a mask."""
    key = blake2b(secret, digest_size=32, person=b"vashsender mask").digest()
    return blake2b(key=key, digest_size=8)


def _mask(state: blake2b, tag: bytes) -> int:
    mask = state.copy()
    mask.update(tag)
    return int.from_bytes(mask.digest(), "big")
