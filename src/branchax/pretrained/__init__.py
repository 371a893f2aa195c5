"""Pretrained policies that come with the library. Each is the folder of a run, reduced to these files:

    config.json     its settings
    metrics.jsonl   the seed's evaluations
    policy/         what `branchax export` writes, but for policy.py, which is `branchax.deploy.numpy_policy`

`branchax play hopper` and `branchax.load("hopper")` accept their names. `experiments/pretrained.py` trains them.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of the pretrained policies."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def locate(run: Path) -> Path:
    """The folder of a pretrained policy, if `run` is the name of one and no such path exists; otherwise `run`."""
    return FOLDER / run if not run.exists() and str(run) in names() else run
