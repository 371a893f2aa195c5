"""Policies that come with the library, each as the folder of a run of which only these files were kept.

    config.json     its settings
    metrics.jsonl   the seed's evaluations
    policy/         what `branchax export` writes

`branchax play hopper` and `branchax.load("hopper")` take them by their names. `experiments/pretrained.py` makes them.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of the policies that there are."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def locate(run: Path) -> Path:
    """The folder of the pretrained policy that a path is the name of; the path itself if it is none, or exists."""
    return FOLDER / run if not run.exists() and str(run) in names() else run
