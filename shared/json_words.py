"""What is wrong with a text that is not JSON, in plain words instead of Python's."""

from json import JSONDecodeError

_WORDS = {
    "Expecting value": "a value is expected here, such as text in double quotes, a number, true or null",
    "Expecting property name enclosed in double quotes": "the name of a member is expected here, in double quotes",
    "Expecting ':' delimiter": "a colon is expected here, between a name and its value",
    "Expecting ',' delimiter": "a comma is expected here, or the end of the list or object",
    "Unterminated string starting at": "this text has no closing double quote",
    "Invalid control character at": "a line break or control character stands inside text; write it as \\n or \\u000a",
    "Invalid \\escape": "a backslash stands before a character that it cannot escape; write \\\\ for a backslash",
    "Invalid \\uXXXX escape": "\\u is not followed by four hexadecimal digits",
    "Illegal trailing comma": "a comma stands before the closing bracket; remove it",
    "Extra data": "the JSON ends before this; remove what follows",
    "Unexpected UTF-8 BOM": "the text begins with a byte order mark; save it without one",
}


def place_and_reason(error: JSONDecodeError) -> str:
    """Where the text stops being JSON, and why: `line 3, column 9: a colon is expected here, ...`."""
    return f"line {error.lineno}, column {error.colno}: {reason(error.msg)}"


def reason(message: str) -> str:
    """The words for a message of `json`."""
    return next((words for start, words in _WORDS.items() if message.startswith(start)), message)
