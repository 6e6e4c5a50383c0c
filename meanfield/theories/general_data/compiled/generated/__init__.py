"""Machine-written source, rewritten by ``python -m meanfield.activations.generate``; do not edit."""
