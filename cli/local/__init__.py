"""What `vashsender` runs on one machine: missing packages, a private broker, a private database, supervised services.

Everything here belongs to the user who runs it, listens on 127.0.0.1 only and keeps all its files under one folder.
"""

from shared.errors import UnavailableError


class LocalError(UnavailableError):
    """Something on this machine stands in the way; the message is one line that says what to do about it."""


class NotReadyError(LocalError, TimeoutError):
    """A private server did not answer in time."""

    exit_code = 75
