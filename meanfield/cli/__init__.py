"""The command line, `meanfield ...`."""

from __future__ import annotations

from meanfield.cli.main import main

__all__ = ["main"]
