"""Files that hold secrets: 0600 in a folder of mode 0700, written atomically, whatever existed before."""

import os
import secrets
import stat
from pathlib import Path

from shared.errors import ConfigurationError

SECRET_BYTES = 24
FOLDER_MODE = 0o700
FILE_MODE = 0o600

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_folder(folder: Path) -> None:
    """Creates a folder that only its owner can enter. An existing folder is closed to others.

    Raises ConfigurationError if the folder belongs to someone else, or holds folders and so may be shared."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if not stat.S_IMODE(folder.stat().st_mode) & _OTHERS:
        return
    if folder.stat().st_uid != os.geteuid() or any(entry.is_dir() for entry in folder.iterdir()):
        raise ConfigurationError(
            f"other users can enter {folder}, and secrets go there: run `chmod 700 {folder}`, or name another folder"
        )
    folder.chmod(FOLDER_MODE)


def write_private(path: Path, text: str, mode: int = FILE_MODE) -> None:
    """Writes `text` to `path` atomically, with exactly this mode whatever the umask."""
    draft = _draft(path, text.encode(), mode)
    draft.replace(path)


def create_private(path: Path, content: bytes) -> bool:
    """Writes a new file of mode 0600, complete from the moment it is visible. False if `path` exists already."""
    draft = _draft(path, content, FILE_MODE)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def secret_in(path: Path, octets: int = SECRET_BYTES) -> str:
    """The secret in `path`. The first process that calls this generates it."""
    if not path.exists():
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        create_private(path, secrets.token_urlsafe(octets).encode())
    return path.read_text()


def _draft(path: Path, content: bytes, mode: int) -> Path:
    """The content on disk, under a name that no reader looks for."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return draft
