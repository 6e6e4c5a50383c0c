"""Linear networks: closed forms, any depth, class tasks and data."""
