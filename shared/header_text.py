"""What a header may contain. Checked when a campaign is created, and again when it is sent."""

import re

from shared.errors import DataError

MAX_HEADER_CHARACTERS = 2_000
MAX_FILE_NAME_CHARACTERS = 255

_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$&'*+=?^_`{|}~.-]{1,100}(?:@[A-Za-z0-9.-]{1,100})?")
_CONTENT_TYPE = re.compile(r"(?!multipart/|message/)[a-z]+/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.IGNORECASE)

# C0, DEL, C1 (with NEL), line and paragraph separators, and surrogates.
UNSAFE_IN_HEADER = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class HeaderError(DataError):
    """A header's text could break the message."""

    def __init__(self, header: str, message: str) -> None:
        super().__init__(f"{header}: {message}")
        #: Name of the header.
        self.header = header


def check_header_text(header: str, text: str) -> str:
    """Returns the text without surrounding space. Raises HeaderError."""
    unsafe = UNSAFE_IN_HEADER.search(text)
    if unsafe:
        raise HeaderError(header, f"contains {unsafe.group()!r}; it must be one line without control characters")
    if len(text) > MAX_HEADER_CHARACTERS:
        raise HeaderError(header, f"is longer than {MAX_HEADER_CHARACTERS} characters")
    return text.strip()


def check_file_name(name: str) -> str:
    """Returns an attachment's name without surrounding space. Raises HeaderError."""
    name = check_header_text("attachment", name)
    if not name or len(name) > MAX_FILE_NAME_CHARACTERS:
        raise HeaderError("attachment", f"needs a file name of 1 to {MAX_FILE_NAME_CHARACTERS} characters")
    return name


def check_content_type(content_type: str) -> str:
    """Returns an attachment's content type. Raises HeaderError if it is not one, or if it is for several parts."""
    if not _CONTENT_TYPE.fullmatch(content_type):
        raise HeaderError("attachment", "needs a content type such as application/pdf")
    return content_type


def check_content_id(content_id: str) -> str:
    """Returns an inline image's id (RFC 2392, without the brackets of RFC 2045). Raises HeaderError."""
    if not _CONTENT_ID.fullmatch(content_id):
        raise HeaderError("attachment", "needs a content_id such as logo or logo@example.com, without < and >")
    return content_id
