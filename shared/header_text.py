"""What may stand in a header of a message, checked where a campaign is created and again where it is sent."""

import re

from shared.errors import DataError

MAX_HEADER_CHARACTERS = 2_000

# C0, DEL, C1 (NEL is one of them), the line and paragraph separators, and halves of characters.
UNSAFE_IN_HEADER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class HeaderError(DataError):
    """A header's text could break the message: `header` names it."""

    def __init__(self, header: str, message: str) -> None:
        super().__init__(f"{header}: {message}")
        self.header = header


def check_header_text(header: str, text: str) -> str:
    """Returns the text without the space around it. Raises HeaderError."""
    unsafe = UNSAFE_IN_HEADER.search(text)
    if unsafe:
        raise HeaderError(header, f"holds {unsafe.group()!r}; it is one line without control characters")
    if len(text) > MAX_HEADER_CHARACTERS:
        raise HeaderError(header, f"is longer than {MAX_HEADER_CHARACTERS} characters")
    return text.strip()
