"""Machine-written source, rewritten by ``python -m meanfield.symbolic.generate``; do not edit."""
