"""The one base class of errors that are meant for people."""


class VashSenderError(Exception):
    """Something a person can understand and mend.

    The message says what is wrong, where, and what to do about it. `exit_code` is the command's exit status when the
    error ends it (as rabbitmqctl: 64 usage, 65 bad data or not found, 69 unavailable, 75 timeout, 78 configuration).
    """

    exit_code = 1


class ConfigurationError(VashSenderError):
    """A setting is missing, wrong or unsafe."""

    exit_code = 78


class UnavailableError(VashSenderError, ConnectionError):
    """Something this process depends on cannot be reached now."""

    exit_code = 69


class DataError(VashSenderError, ValueError):
    """What was handed over is not usable."""

    exit_code = 65
