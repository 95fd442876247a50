"""Words of strangers, as every log, header and database takes them."""


def printable(text: str) -> str:
    """A space stands for each control character, line end, and half of a pair of UTF-16."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str, most: int) -> str:
    """Its first `most` characters as one line, without repeated spaces. Reads no more than four times as many."""
    return " ".join(printable(text[: 4 * most]).split())[:most]
