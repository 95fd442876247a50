"""Disk space for files that are uploaded to the page. They are kept in the folder for temporary files until they are
imported, and in a container that folder is small. Imports through the API are streamed and need none."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.api.usecases.errors import TooLargeError
from services.api.web.problems import HttpError

ADVICE = "Split the list, or import it with the command or the API: they need no space for it."
RETRY_SECONDS = 30


class UploadsBusyError(HttpError):
    status = 503
    kind = "uploads-busy"
    title = "Other files are being uploaded"


class UploadSpace:
    """What all uploads at one time may take."""

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
        self._free = total_bytes

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Keeps this many bytes for the block. Raises TooLargeError, or UploadsBusyError if others have them."""
        if size > self._total:
            raise TooLargeError(self._total, ADVICE)
        if size > self._free:
            raise UploadsBusyError(
                "There is no space for this file until they are imported. Try again in a minute.",
                headers={"Retry-After": str(RETRY_SECONDS), "Connection": "close"},
            )
        self._free -= size
        try:
            yield
        finally:
            self._free += size
