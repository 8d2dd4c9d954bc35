"""The notebooks of `examples/notebooks`, executed.

    python -m tests.support.notebooks      # execute all of them anew, and write what they print and draw into them

Progress and warnings on standard error are left out of what is written: they name the machine and change with each run.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.support.paths import EXAMPLES

NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
VERSION = 4  # of the format
SECONDS = 600  # that a cell may take


def executed(file: Path) -> nbformat.NotebookNode:
    """The notebook after all its cells have run in a kernel of its own. Raises CellExecutionError."""
    book = nbformat.read(file, VERSION)
    client = NotebookClient(book, timeout=SECONDS, kernel_name="python3", coalesce_streams=True)
    client.execute(cwd=str(file.parent))
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # the times
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return book


if __name__ == "__main__":
    for file in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        nbformat.write(executed(file), file)
        print(file.name, flush=True)
