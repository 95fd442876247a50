"""Header text as octets: RFC 2047 if it is not plain ASCII, folded so that no line is long.

`shared.header_text` has checked the input. Every line made here but the first begins with a space.
"""

import re
from binascii import b2a_base64

_WORD_OCTETS = 45  # =?utf-8?B?....?= then has at most 72 characters; RFC 2047, 2 allows 75
_LINE = 76
_LONGEST_WORD = 200
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PLAIN = re.compile(r"[!-~]+(?: [!-~]+)*")


def unstructured(name: str, text: str) -> bytes:
    """The value of a header such as Subject. The first line leaves room for `name`."""
    plain = text.isascii() and "=?" not in text and _PLAIN.fullmatch(text)
    if not plain:
        return encoded_words(text)
    if len(name) + 2 + len(text) <= _LINE:
        return text.encode()
    words = text.split(" ")
    return _fold(words, len(name) + 2) if max(map(len, words)) <= _LONGEST_WORD else encoded_words(text)


def mailbox(display_name: str, email: str) -> bytes:
    """`name <address>` (RFC 5322, 3.4). If the address is not ASCII, the header is UTF-8 (RFC 6532)."""
    address = email.encode()
    if not display_name:
        return address
    if not display_name.isascii() or "=?" in display_name or len(display_name) > _LINE:
        return encoded_words(display_name) + b"\r\n <" + address + b">"
    if _ATOMS.fullmatch(display_name):
        phrase = display_name
    else:
        phrase = '"' + display_name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return phrase.encode() + b"\r\n <" + address + b">"


def encoded_words(text: str) -> bytes:
    """Encoded-words in UTF-8 and base64, one a line, without splitting a character (RFC 2047, 5)."""
    octets = text.encode()
    words = []
    start = 0
    while start < len(octets):
        end = start + _WORD_OCTETS
        if end < len(octets):
            while octets[end] & 0xC0 == 0x80:  # a continuation octet: its character starts earlier
                end -= 1
        words.append(b"=?utf-8?B?" + b2a_base64(octets[start:end], newline=False) + b"?=")
        start = end
    return b"\r\n ".join(words)


def _fold(words: list[str], column: int) -> bytes:
    folded = words[0]
    column += len(words[0])
    for word in words[1:]:
        if column + 1 + len(word) > _LINE:
            folded += "\r\n"
            column = 0
        folded += " " + word
        column += 1 + len(word)
    return folded.encode()
