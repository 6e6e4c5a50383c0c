"""Where solutions are looked for: starts, branches that are followed, and rivals."""
