"""`python -m satrap.cli`: how the supervisor starts its children, without relying on PATH."""

from satrap.cli import main

if __name__ == "__main__":
    main()
