"""Classes that can be exchanged: kinds, orbits of codes, and the search for them."""
