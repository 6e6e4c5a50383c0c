"""Where solutions of rectifiers are looked for: starts, and branches that are followed."""
