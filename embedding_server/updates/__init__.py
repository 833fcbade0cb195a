"""From a trainer's packet to the served row: watch, decide, fetch and verify, guard, apply."""
