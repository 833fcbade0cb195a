"""The `satrap` command. Each command parses its flags, builds its parts, and runs them; nothing else is here."""

from satrap.cli.app import main

__all__ = ["main"]
