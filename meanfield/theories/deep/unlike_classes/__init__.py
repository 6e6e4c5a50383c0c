"""Averages of a layer where more fields couple the classes than lattices over all of them can take."""
