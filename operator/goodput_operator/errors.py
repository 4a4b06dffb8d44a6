"""The operator's errors. What a caller wants to know is whether trying again can help."""


class GoodputError(Exception):
    """Base of every error that we raise on purpose."""


class CorruptStatusError(GoodputError):
    """A status that we could not have written; nothing is decided on it."""


class ApiError(GoodputError):
    """The API server refused or did not answer.

    Attributes:
        transient: the same call may succeed later.
        code: the HTTP status, 0 when there was no answer.
        reason: the API server's CamelCase reason, or the name of the transport error.
        retry_after_seconds: the server's own wish, 0 when it had none.
    """

    transient = False

    def __init__(
        self, message: str, *, code: int = 0, reason: str = "", retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(ApiError):
    """404: the object is not there (any more)."""


class AlreadyExistsError(ApiError):
    """409 AlreadyExists: an object of this name is there."""


class ConflictError(ApiError):
    """409 Conflict: our view is old (resourceVersion or UID precondition). Look again."""


class ExpiredError(ApiError):
    """410: the resourceVersion of a watch is too old. List again."""


class ForbiddenError(ApiError):
    """401 or 403: a right is missing, or a quota or admission plugin said no."""


class InvalidError(ApiError):
    """400, 413, 422, or a webhook's denial: the object itself is refused; `str()` says why."""


class UnavailableError(ApiError):
    """429, 5xx, a time-out or a broken connection: the answer may be lost. Try again."""

    transient = True
