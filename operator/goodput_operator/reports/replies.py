"""What the endpoint can answer, as values."""

import json
from dataclasses import dataclass

from goodput_operator.errors import GoodputError


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer.

    Attributes:
        result: one CamelCase word for the metrics: Accepted, Stale, or why it was refused.
        retry_after_seconds: how long the agent should wait, 0 when it need not.
    """

    status: int
    result: str
    body: bytes
    retry_after_seconds: int = 0


class RefusedError(GoodputError):
    """A request that is not served; `str()` tells the sender no more than it may know."""

    def __init__(
        self, status: int, result: str, message: str, retry_after_seconds: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.result = result
        self.retry_after_seconds = retry_after_seconds

    def reply(self) -> Reply:
        """Return the answer that says so."""
        body = json.dumps({"reason": self.result, "message": str(self)}).encode()
        return Reply(self.status, self.result, body, self.retry_after_seconds)
