"""Deep nonlinear networks on class tasks: the order parameters of all layers, solved together. See THEORY.md."""
