"""The settings file of an installation: lines `VASHSENDER_NAME=value`.

It is `.env` in the installation's own folder, or the file that `VASHSENDER_ENV_FILE` names. The folder that a person
happens to stand in does not count: a `.env` there could send the API key to a stranger.
"""

import os
from io import StringIO
from pathlib import Path
from stat import S_ISREG, S_IWGRP, S_IWOTH

from shared.errors import ConfigurationError

VARIABLE = "VASHSENDER_ENV_FILE"
MAX_BYTES = 1_000_000
INSTALLATION = Path(__file__).resolve().parent.parent
"""The folder that holds this program: a checkout, or the packages of an environment."""


def env_file() -> Path | None:
    """The settings file, or None if there is none. Raises ConfigurationError if it cannot be trusted."""
    given = os.environ.get(VARIABLE)
    path = Path(given) if given else INSTALLATION / ".env"
    try:
        status = path.stat()
    except FileNotFoundError:
        if given:
            raise ConfigurationError(f"{VARIABLE}: there is no file {path}") from None
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(f"{path} belongs to another user (uid {status.st_uid}), so its settings are not used")
    if status.st_mode & (S_IWGRP | S_IWOTH):
        raise ConfigurationError(f"{path} can be changed by other users: run `chmod go-w {path}`")
    if not S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        raise ConfigurationError(f"{path} is not a file of at most {MAX_BYTES} bytes")
    _text(path)
    return path


def text_named_by(variable: str) -> str | None:
    """The text of the file that a variable names, such as VASHSENDER_API_KEY_FILE; None if it is not set. Raises
    ConfigurationError."""
    path = os.environ.get(variable)
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"{variable}: cannot read {path}: {error.strerror}. Name a readable file.") from error


def unread_lines() -> list[int]:
    """The numbers of the lines of the settings file that are not `NAME=value`, so that a person can be told: nothing of
    them counts. A quote that is not closed is the usual cause."""
    path = env_file()
    if path is None:
        return []
    from dotenv.parser import parse_stream  # slow to import, and most installations have no such file

    found = [one for one in parse_stream(StringIO(_text(path))) if one.error or (one.key and one.value is None)]
    blank = [len(one.original.string) - len(one.original.string.lstrip()) for one in found]
    return [
        one.original.line + one.original.string.count("\n", 0, length) for one, length in zip(found, blank, strict=True)
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}, line {line}, is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None


def ignored_file() -> Path | None:
    """A `.env` in the current folder that looks like ours and is not used, so that a person can be told."""
    path = Path.cwd() / ".env"
    try:
        if path == INSTALLATION / ".env" or os.environ.get(VARIABLE) or not path.is_file():
            return None
        return path if b"VASHSENDER_" in path.read_bytes()[:100_000] else None
    except OSError:
        return None
