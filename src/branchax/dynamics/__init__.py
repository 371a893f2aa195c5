"""Models of a world (an environment): learned ensembles, tables, and the simulator itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from branchax.dynamics.base import Dynamics as Dynamics
    from branchax.dynamics.base import FitReport as FitReport
    from branchax.dynamics.fit import make_ensemble as make_ensemble
    from branchax.dynamics.oracle import oracle
    from branchax.dynamics.tabular import make_table as make_table

    make_oracle = oracle
else:
    from branchax.public import hand_on

    __getattr__, __dir__, __all__ = hand_on(
        __name__,
        {
            "Dynamics": "branchax.dynamics.base",
            "FitReport": "branchax.dynamics.base",
            "make_ensemble": "branchax.dynamics.fit",
            "make_oracle": "branchax.dynamics.oracle:oracle",
            "make_table": "branchax.dynamics.tabular",
        },
    )
