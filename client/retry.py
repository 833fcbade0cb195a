"""When a call that failed is tried again: a decision of (failure, attempt, time left), without a clock."""

from dataclasses import dataclass

from satrap.errors import SatrapError, UnavailableError

__all__ = ["DEFAULT_RETRY", "NO_RETRY", "Retry"]

# What TorchServe answers, as UNAVAILABLE, when the handler itself failed: the same request fails again.
_HANDLER_FAILURES = frozenset(
    {
        "Prediction failed",
        "Invalid model predict output",
        "number of batch response mismatched",
        "Unsupported model output data type.",
    }
)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and after which pause, a call is tried again.

    Only `UNAVAILABLE` is tried again (nobody listens, a connection broke, a shard is loading), never a handler
    that failed, and only calls for which a second run does no harm. Pauses double; all attempts and pauses
    together stay within the call's deadline.

    Attributes:
        attempts: How often a call is made at most; 1 means no retry.
        first_delay: Seconds before the second attempt.
        max_delay: Seconds that no pause exceeds.
    """

    attempts: int = 5
    first_delay: float = 0.05
    max_delay: float = 1.0

    def pause(self, error: SatrapError, attempt: int, seconds_left: float) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        `attempt` counts from 1 and is the one that failed with `error`; `seconds_left` until the deadline.
        """
        if not isinstance(error, UnavailableError) or str(error) in _HANDLER_FAILURES:
            return None
        delay = min(self.first_delay * 2.0 ** (attempt - 1), self.max_delay)
        return delay if attempt < self.attempts and delay < seconds_left else None


DEFAULT_RETRY = Retry()
NO_RETRY = Retry(attempts=1)
