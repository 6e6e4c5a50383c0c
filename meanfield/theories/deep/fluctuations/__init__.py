"""Fluctuations of the order parameters around a saddle: the term of order 1/N."""
