"""Claim: `mbpo` starts to run on `brax/halfcheetah` within 3,000 real steps, and its model's holdout error falls.

The paper's updates per step (40), target entropy and horizon (1) for this task, on networks sized for a laptop. MBPO's
curves go to 400,000 steps: this is the beginning of one.

    python -m experiments.halfcheetah
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from branchax.host import plots, rundir, runlog
from branchax.presets import preset
from experiments.harness import RESULTS, curves, publish, run


def main() -> None:
    """Runs, looks at the rows, publishes."""
    config = replace(preset("mbpo", "brax/halfcheetah"), env_steps=3_000)
    directory = run(config, "brax_halfcheetah_mbpo_s0_1")
    rows = runlog.read(directory / rundir.METRICS)
    errors = [row[runlog.MODEL_ERROR] for row in rows if runlog.MODEL_ERROR in row]
    steps, returns = curves(directory)[config.seed]
    found = {
        "env_steps": steps.tolist(),
        "returns": returns.tolist(),
        "last_three": float(np.mean(returns[-3:])),
        "model_holdout_error": errors,
        "falls": float(np.mean(errors[-3:])) < float(np.mean(errors[:3])),
        "updates": rows[-1]["updates"],
    }
    print(found)
    plots.curve([directory], RESULTS / "halfcheetah.png")
    print("written to", publish("halfcheetah", found, {"mbpo": config}, [directory]))


if __name__ == "__main__":
    main()
