"""The `collabkit` command, and the demo that it runs."""

from collabkit.cli.app import main

__all__ = ["main"]
