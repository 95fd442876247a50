"""The base class of errors that are meant for people."""


class VashSenderError(Exception):
    """An error that a person can understand and fix. The message says what is wrong, where, and what to do about it."""

    #: Exit status of a command that ends with this error, as in rabbitmqctl: 64 usage, 65 bad data or not found,
    #: 69 unavailable, 75 timeout, 78 configuration.
    exit_code = 1


class ConfigurationError(VashSenderError):
    """A setting is missing, wrong or unsafe."""

    exit_code = 78


class UnavailableError(VashSenderError, ConnectionError):
    """Something that this process depends on cannot be reached."""

    exit_code = 69


class DataError(VashSenderError, ValueError):
    """The given data is not usable."""

    exit_code = 65
