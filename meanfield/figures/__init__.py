"""The figures of van Meegen & Sompolinsky (2025), made of this package alone: theory beside sampled networks.

`meanfield figures` writes them; `notebooks/paper.ipynb` shows them at small size, with what agrees.
"""

from __future__ import annotations

from meanfield.figures.gallery import FIGURES, Drawing, Scale, draw

__all__ = ["FIGURES", "Drawing", "Scale", "draw"]
