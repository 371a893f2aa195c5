"""Where rows go beside `metrics.jsonl`. A place takes rows (`write`), and is closed; that is all a run knows of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from branchax.config import Config
from branchax.runs import rundir
from branchax.runs.runlog import Row
from branchax.runs.tensorboard import TensorBoard
from branchax.runs.wandb import Wandb


class Curves(NamedTuple):
    """All places that a run writes to; none is fine."""

    places: list[TensorBoard | Wandb]

    def write(self, rows: Iterable[Row]) -> None:
        """Hands the rows of an epoch on."""
        rows = list(rows)
        for place in self.places:
            place.write(rows)

    def close(self) -> None:
        """Closes them all."""
        for place in self.places:
            place.close()


def open_curves(config: Config, directory: Path, rows: list[Row], say: Callable[[str], Any]) -> Curves:
    """The places that the settings ask for; `rows` are those that the run has written before it goes on."""
    places: list[TensorBoard | Wandb] = []
    if config.wandb:
        places.append(Wandb(config, directory, rows, say))
    if config.tensorboard:
        places.append(TensorBoard(directory / rundir.TENSORBOARD, rows))
    return Curves(places)
