"""The settings file of an installation: lines `VASHSENDER_NAME=value`.

It is `.env` in the installation's own folder, or the file that `VASHSENDER_ENV_FILE` names. The folder that a person
happens to stand in does not count: a `.env` there could send the API key to a stranger.
"""

import os
from pathlib import Path
from stat import S_IWGRP, S_IWOTH

from shared.errors import ConfigurationError

VARIABLE = "VASHSENDER_ENV_FILE"
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
    return path


def ignored_file() -> Path | None:
    """A `.env` in the current folder that looks like ours and is not used, so that a person can be told."""
    path = Path.cwd() / ".env"
    try:
        if path == INSTALLATION / ".env" or os.environ.get(VARIABLE) or not path.is_file():
            return None
        return path if b"VASHSENDER_" in path.read_bytes()[:100_000] else None
    except OSError:
        return None
