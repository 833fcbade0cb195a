"""Which of several addresses to try, in which order: in turn, dead ones last. No sockets, no clock."""

__all__ = ["Rotation"]

_DEAD_SECONDS = 1.0


class Rotation:
    """Places 0 to n - 1, used in turn. One that failed comes last for a second, and is then tried as any other.

    Not thread-safe: the owner locks.
    """

    def __init__(self, n: int) -> None:
        """Take `n` places, all alive."""
        self._dead_until = [float("-inf")] * n
        self._next = 0

    def order(self, now: float) -> list[int]:
        """Every place once, those to be tried first first."""
        n = len(self._dead_until)
        turn = [(self._next + i) % n for i in range(n)]
        self._next = (self._next + 1) % n
        return sorted(turn, key=lambda place: self._dead_until[place] > now)

    def failed(self, place: int, now: float) -> None:
        """It did not answer."""
        self._dead_until[place] = now + _DEAD_SECONDS
