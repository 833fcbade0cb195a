"""Facts as lines that a person can read and copy at any width: nothing is cut, nothing is folded."""

from collections.abc import Iterable

__all__ = ["print_record"]


def print_record(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """Print `title`, then a line for each name and value; values that are empty are left out."""
    print(title)
    lines = [(name, value) for name, value in facts if value]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        print(f"  {name:<{width}}  {value}")
