"""Theories: each folder covers a kind of network and task, and imports no sibling."""
