"""Runs the notebooks from top to bottom, each in a process of its own, and stores their outputs in them.

make notebooks                                             # all of them
python examples/notebooks/execute.py examples/notebooks/first_run.ipynb
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(path: Path, to: Path) -> None:
    """Runs the notebook at `path` and writes it, with outputs, to `to`. Raises `CellExecutionError` if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    # Times of day would differ each time.
    NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False, coalesce_streams=True).execute()
    nbformat.write(notebook, to)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted(HERE.glob("*.ipynb"))):
        print(f"running {path.name}", flush=True)
        execute(path, path)
