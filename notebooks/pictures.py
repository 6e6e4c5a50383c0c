"""Draws the pictures of the README: ``python notebooks/pictures.py [folder]``."""

import sys
from pathlib import Path

import numpy as np
from execute import few_colours
from PIL import Image

import meanfield as mf
from meanfield import plot

FOLDER = Path(__file__).parent / "pictures"
DPI = 200  # of figures 4 to 7 inches wide: sharp at half size


def phase_diagram():
    """Weights of the codes of a sigmoid network over y_-, with activation maps of four phases."""
    network, task = mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.0)
    diagram = mf.sweep(network, task, off=np.linspace(-1, 0.95, 196), progress=False)
    examples = {off: mf.solve(network, task.with_(off=off)) for off in (-0.75, 0.25, 0.55, 0.8)}
    return plot.figure_phase_diagram(diagram, examples)


def activation_map():
    """A hundred neurons of the network of the README's first example."""
    posterior = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5))
    return plot.plot_activation_map(posterior).figure


def main(folder):
    folder.mkdir(exist_ok=True)
    for draw in (phase_diagram, activation_map):
        path = folder / f"{draw.__name__.replace('_', '-')}.png"
        draw().savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        with Image.open(path) as image:
            few = few_colours(image)
        few.save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
