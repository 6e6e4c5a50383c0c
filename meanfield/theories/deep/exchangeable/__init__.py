"""Averages of a layer whose classes are exchangeable."""
