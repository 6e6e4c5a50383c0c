"""Where codes enter, leave and merge: extended systems, lines and boundaries."""
