"""Why a request is refused. The message says what is wrong and what to do.

`services.api.web.problems` turns these into answers; each kind is documented in docs/api.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from shared.errors import VashSenderError

ERRORS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a project may do of something, and how much of it is left."""

    #: Of the limit, such as `tests_per_hour`.
    name: str
    limit: int
    left: int
    #: Until there is room again, or more of it.
    reset_seconds: int


class RefusedError(VashSenderError):
    """A request that was not carried out. Nothing has changed, unless the subclass says otherwise."""

    kind: ClassVar[str]
    """Names the error for programs; never changes."""
    title: ClassVar[str]
    retry_after_seconds: ClassVar[int | None] = None
    """When to repeat the request; None if that would not help."""

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members  # facts for programs, such as the line of a file

    @property
    def errors(self) -> Sequence[Mapping[str, Any]]:
        """What is wrong with each member of the request."""
        errors: Sequence[Mapping[str, Any]] = self.members.get("errors", ())
        return errors


class NotFoundError(RefusedError):
    kind = "not-found"
    title = "Not found"

    def __init__(self, what: str) -> None:
        super().__init__(f"There is no {what} here. Check the address.")


class EventsGoneError(RefusedError):
    kind = "events-gone"
    title = "Events were deleted before they were read"


class ForgottenError(RefusedError):
    """The results were deleted after the retention of the project."""

    kind = "forgotten"
    title = "The results of this campaign were deleted"


class ConflictError(RefusedError):
    """The state of things does not allow it now."""


class WrongStateError(ConflictError):
    kind = "wrong-state"
    title = "The campaign is in the wrong state for this"


class ImportOpenError(ConflictError):
    kind = "import-open"
    title = "An import is not done"


class ImportEndedError(ConflictError):
    """The import was cancelled, timed out or deleted while its rows arrived."""

    kind = "import-ended"
    title = "The import was ended"


class ImportOverError(ConflictError):
    kind = "wrong-state"
    title = "The import is over"


class NoRecipientsError(ConflictError):
    kind = "no-recipients"
    title = "The campaign has no recipients"


class NothingToDoError(ConflictError):
    kind = "nothing-to-do"
    title = "There is nothing to do"


class DecisionNeededError(ConflictError):
    kind = "decision-needed"
    title = "Say what happens to the refused recipients"


class StillSendingError(ConflictError):
    kind = "still-sending"
    title = "Senders are still finishing"
    retry_after_seconds = 2


class ReopeningError(ConflictError):
    kind = "reopening"
    title = "The last such request is still in progress"
    retry_after_seconds = 2


class ErasedPersonError(RefusedError):
    kind = "erased-person"
    title = "The person was erased"

    def __init__(self) -> None:
        super().__init__(
            "This person was erased. If the person asks for emails again, an operator allows them: with a key that has"
            " the scope operator, remove the suppression of this address."
        )


class ErasureRunningError(ConflictError):
    kind = "erasure-running"
    title = "The person is still being erased"
    retry_after_seconds = 5


class ChangedMeanwhileError(ConflictError):
    kind = "changed-meanwhile"
    title = "The campaign was changed by another request"


class InvalidError(RefusedError):
    """A value in the request is wrong."""

    kind = "invalid"
    title = "The request is not valid"

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        """`errors`: for each wrong value its `detail`, and its `pointer` (RFC 6901, as a fragment) or `parameter`."""
        where = errors[0].get("pointer") or errors[0].get("parameter", "")
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(f"{where}: {errors[0]['detail']}{more}", errors=list(errors[:ERRORS_SHOWN]))


class ForeignDomainError(RefusedError):
    kind = "foreign-domain"
    title = "The domain of the sender is not the project's"

    def __init__(self, pointer: str, domain: str, why: str) -> None:
        detail = f"{domain} cannot be used: {why}"
        super().__init__(f"{pointer}: {detail}.", errors=[{"pointer": pointer, "detail": detail}], domain=domain)


class ClosedProjectError(ConflictError):
    kind = "project-closed"
    title = "The project is closed"


class StillOpenError(ConflictError):
    kind = "not-closable"
    title = "The project cannot be closed now"


class TakenNameError(ConflictError):
    kind = "name-taken"
    title = "The name is taken"


class DomainTakenError(ConflictError):
    kind = "domain-taken"
    title = "The domain belongs to another project"


class UnprovenDomainError(ConflictError):
    kind = "unproven-domain"
    title = "The domain is not proven"

    def __init__(self, record_name: str, record_text: str, why: str) -> None:
        super().__init__(
            f'Publish the TXT record {record_name} with the text "{record_text}", then repeat the request: {why}.',
            record_name=record_name,
            record_text=record_text,
        )


class LimitReachedError(RefusedError):
    """Nothing was done; it may be repeated once the limit has room."""

    kind = "limit-reached"
    title = "A limit of the project is reached"

    def __init__(self, detail: str, quota: Quota) -> None:
        super().__init__(detail, limit=quota.name)
        self.quota = quota


class UnknownFieldError(RefusedError):
    kind = "unknown-field"
    title = "The message uses a field that the recipients do not have"


class MalformedFileError(RefusedError):
    kind = "malformed-file"
    title = "The file cannot be read, so nothing of it was imported"


class TooLargeError(RefusedError):
    kind = "too-large"
    title = "The body is too large"

    def __init__(self, limit_bytes: int, advice: str) -> None:
        super().__init__(f"The body exceeds {limit_bytes} bytes. {advice}", limit_bytes=limit_bytes)


class TooSlowError(RefusedError):
    kind = "too-slow"
    title = "The upload stood still"


class CutOffError(RefusedError):
    kind = "cut-off"
    title = "The upload was cut off"


class UnavailableError(RefusedError):
    """Something that the request needs cannot be reached now."""

    kind = "unavailable"
    title = "Not available now"
    retry_after_seconds = 2


class HashesSealedError(RefusedError):
    """Who was erased cannot be known, so no recipient or suppression is added."""

    kind = "hashes-sealed"
    title = "The secret of the hashes of erased people cannot be opened"


class StoppingError(UnavailableError):
    kind = "stopping"
    title = "The server is stopping"


class InternalError(RefusedError):
    kind = "internal"
    title = "Something went wrong here"

    def __init__(self, **members: Any) -> None:
        super().__init__("This is a mistake of the server. Its log says more.", **members)


DATABASE_AWAY = "The database cannot be reached now. Check whether anything has changed, then try again."


def invalid(pointer: str, detail: str, **members: Any) -> InvalidError:
    """The error about one member of a body."""
    return InvalidError([{"pointer": pointer, "detail": detail, **members}])
