"""What `vashsender` runs on one machine: Debian packages, a private broker, a private database, supervised services.

Everything runs as the user who starts it, listens on 127.0.0.1 only and keeps its files in one folder.
"""

from shared.errors import UnavailableError


class LocalError(UnavailableError):
    """Something on this machine prevents the action. The message is one line that says what to do."""


class NotReadyError(LocalError, TimeoutError):
    """A private server did not answer in time."""

    exit_code = 75
