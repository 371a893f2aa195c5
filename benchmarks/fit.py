"""Rows times members per second that the ensemble is fitted on, early stopping and holdout included.

The fit is held to a fixed number of rounds (no member may stop), so that every call does the same work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.flops import model_fit
from benchmarks.harness import HOPPER, Case, prepared
from branchax.config import ModelConfig
from branchax.presets import preset

UNIT = "sample members"
ROUNDS = 5
SHAPES = {
    "7 x (4 x 200)": (7, (200,) * 4),
    "5 x (3 x 64)": (5, (64,) * 3),
    "1 x (4 x 200)": (1, (200,) * 4),
    "7 x (4 x 400)": (7, (400,) * 4),
}


def case(shape: str, batch: int = 256, rounds: int = ROUNDS, rows: int = 10_000) -> Case:
    """A fit of so many rounds to so many rows."""
    members, hidden = SHAPES[shape]
    model = ModelConfig(
        members=members,
        elites=max(members - 2, 1),
        hidden=hidden,
        batch_size=batch,
        max_rounds=rounds,
        patience=rounds + 1,
        good_error=0.0,
    )
    program, state = prepared(replace(preset("mbpo_paper"), model=model), rows)
    assert program.stages is not None
    fit = program.stages.fit
    work = members * batch * model.round_steps * rounds
    settings = {"ensemble": shape, "batch": batch}
    return Case(settings, lambda state: fit(state)[0], (state,), work, work * model_fit(*HOPPER, model), carried=True)


def cases(full: bool) -> Iterator[Case]:
    """The paper's sizes, and the laptop's."""
    for shape in SHAPES if full else list(SHAPES)[:2]:
        for batch in (256, 1_024) if full else (256,):
            yield case(shape, batch)
