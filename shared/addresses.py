"""Email addresses: which are accepted, and when two are the same.

An address is stored as SMTP sends it: the local part as given, the domain as lower-case A-labels (IDNA). So SMTPUTF8
(RFC 6531) is needed only if the local part is not ASCII. Limits are those of RFC 5321, section 4.5.3.1. Quoted local
parts and address literals are refused; `example.test` and `localhost` are accepted.
"""

import re
import unicodedata
from typing import NamedTuple

from shared.errors import DataError

MAX_ADDRESS = 254
MAX_LOCAL_PART = 64

# Harmless around an address or a name: spaces, joiners, byte order marks, left-to-right marks (Unicode categories Zs
# and Cf). Signs that change the direction of the text after them are not among these.
INVISIBLE = (
    " \t\u00a0\u00ad\u034f\u061c\u1680\u180e"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u200e\u200f"
    "\u202f\u205f\u2060\u2061\u2062\u2063\u2064\u3000\ufeff"
)

_SPACE = " \t"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LAST_LABEL = r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PLAIN = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)*{_LAST_LABEL}")


class Address(NamedTuple):
    """A checked and normalised address."""

    #: As SMTP sends it.
    email: str
    #: The address in lower case: addresses with the same key are the same recipient.
    key: str


class AddressError(DataError):
    """Not a usable address."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        #: A sentence that does not repeat the address.
        self.reason = reason


def parse_address(raw: str) -> Address:
    """Checks and normalises one address, without spaces and invisible characters around it. Raises AddressError.

    Takes about 1 us for plain ASCII; email-validator decides about other addresses (without DNS)."""
    text = raw.strip(_SPACE)
    if _PLAIN.fullmatch(text) is not None and len(text) <= MAX_ADDRESS:
        at = text.find("@")
        if at <= MAX_LOCAL_PART and text.find("--", at) < 0:
            key = text.lower()
            return Address(key if key == text else text[:at] + key[at:], key)
    return _parse_unusual(text)


def parse_domain(raw: str) -> str:
    """A domain as lower-case A-labels. Raises AddressError."""
    return parse_address(f"postmaster@{raw.strip(_SPACE)}").email.partition("@")[2]


def needs_smtputf8(email: str) -> bool:
    """Whether a normalised address needs a relay with SMTPUTF8 (RFC 6531)."""
    return not email.isascii()


# What people put beside an address, and what to do about it. A display name is not dropped: it may be another person's.
_MISTAKES = (
    (
        re.compile(r"@.*[,;/|\s].*@|[,;]\s*$"),
        "There is more than one address, or a comma or semicolon too many; give one.",
    ),
    (re.compile(r"^mailto:", re.IGNORECASE), "The address begins with mailto:; give only what follows it."),
    (re.compile(r"[<>]"), "There is more than the address; give only what stands between < and >."),
    (re.compile(r"^([\"'“”„«‘’`]).*[\"'“”»‘’`]$"), "The address stands in quotes; remove them."),
    (re.compile(r"\.$"), "The address ends in a period; remove it."),
    (re.compile(r"^\S+ \S*@|@\S* "), "There is a space in the address; remove it."),
    (re.compile(r"\(at\)|\[at\]| at ", re.IGNORECASE), "The address has no @ but a word for it; write the @."),
)


def _parse_unusual(text: str) -> Address:
    visible = text.strip(INVISIBLE)
    if visible != text:
        return parse_address(visible)
    if not text:
        raise AddressError("The address is empty.")
    if len(text) > MAX_ADDRESS:
        raise AddressError(f"The address is longer than {MAX_ADDRESS} characters (RFC 5321, 4.5.3.1.3).")
    for place, sign in enumerate(text, 1):
        if sign in INVISIBLE[1:] or unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp"):
            name = unicodedata.name(sign, "a control character")
            raise AddressError(f"Character {place} cannot be seen (U+{ord(sign):04X}, {name}); remove it.")
    if advice := next((advice for kind, advice in _MISTAKES if kind.search(text)), None):
        raise AddressError(advice)
    from email_validator import EmailNotValidError, validate_email  # slow to import, and most addresses are plain

    try:
        valid = validate_email(
            text,
            check_deliverability=False,
            globally_deliverable=False,
            allow_quoted_local=False,
            allow_domain_literal=False,
        )
    except EmailNotValidError as error:
        raise AddressError(str(error)) from None
    domain = valid.ascii_domain.lower()
    email = f"{valid.local_part}@{domain}"
    if len(valid.local_part.encode()) > MAX_LOCAL_PART or len(email.encode()) > MAX_ADDRESS:
        raise AddressError(f"The address is longer than {MAX_LOCAL_PART} octets before the @ or {MAX_ADDRESS} in all.")
    if domain.rpartition(".")[2].isdigit():
        raise AddressError("The address ends in a number instead of a domain.")
    return Address(email, f"{valid.local_part.lower()}@{domain}")
