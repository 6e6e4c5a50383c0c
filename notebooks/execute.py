"""Executes the notebooks and keeps their outputs: ``python notebooks/execute.py [name ...]``.

What would differ from run to run or from machine to machine (times, progress, addresses of objects) is left out, so
that a notebook changes only where its numbers or pictures do.
"""

import base64
import io
import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image
from scipy.spatial import cKDTree

FOLDER = Path(__file__).parent
TIMEOUT = 900  # seconds per cell; the first cells compile
COLOURS = 256  # of a picture: a third of the bytes of true colour, and no difference to be seen
# Pictures that are legible at small size; set where a reader of the notebook does not see it.
PREAMBLE = "%config InlineBackend.print_figure_kwargs = {'dpi': 100, 'bbox_inches': 'tight'}"


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs."""
    notebook = nbformat.read(path, as_version=4)
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # whatever the shell says
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PREAMBLE))
    NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(FOLDER)}}).execute()
    del notebook.cells[0]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.metadata = {}
        cell.execution_count = number
        cell.outputs = [cleaned(output, number) for output in cell.outputs]
    return notebook


def cleaned(output: nbformat.NotebookNode, number: int) -> nbformat.NotebookNode:
    """An output without addresses of objects; what was written to stderr, a warning for one, is an error."""
    if output.get("name") == "stderr":
        raise RuntimeError(f"code cell {number} wrote to stderr: {output.text}")
    if "execution_count" in output:
        output.execution_count = number
    if "data" in output and "text/plain" in output.data:
        output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", output.data["text/plain"])
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = small(output.data["image/png"])
    return output


def few_colours(image: Image.Image) -> Image.Image:
    """The picture with `COLOURS` colours."""
    rgb = image.convert("RGB")
    colors, place, count = np.unique(np.array(rgb).reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    often = colors[np.argsort(-count)[: COLOURS // 4]]  # background, lines and text: exactly
    # The rest by coverage: by counts (median cut) the maps take all colours, and lines get those of others.
    spread = rgb.quantize(COLOURS - len(often), Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).getpalette()
    palette = np.concatenate([often, np.reshape(spread, (-1, 3))[: COLOURS - len(often)]]).astype(np.uint8)
    nearest = cKDTree(palette).query(colors)[1].astype(np.uint8)
    few = Image.fromarray(nearest[place.ravel()].reshape(rgb.height, rgb.width))
    few.putpalette(palette.tobytes())
    return few


def small(picture: str) -> str:
    """A picture, in base 64, with few colours."""
    written = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        few_colours(image).save(written, format="png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def main(names: list[str]) -> None:
    """Execute these notebooks, or all."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            nbformat.write(executed(path), path)
            print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
