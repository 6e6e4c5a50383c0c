"""P -> infinity for bounded phi: the saturated dual and the reduced problem."""
