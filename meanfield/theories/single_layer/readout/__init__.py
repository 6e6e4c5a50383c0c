"""The readout integral at finite P, J(t) and its derivatives, by lattices, clouds, kinds, halves, one class."""
