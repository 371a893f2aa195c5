"""Claim: `mbpo` runs on `brax/halfcheetah` for 3,000 real steps, and its model's holdout error falls.

The paper's updates per step (40), target entropy and horizon (1) for this task, on networks sized for a laptop. MBPO's
curves go to 400,000 steps: this is the beginning of one.

    python -m experiments.halfcheetah
"""

from __future__ import annotations

from dataclasses import replace

from branchax.presets import preset
from branchax.runs import plots
from experiments.harness import RESULTS, learned, publish, run


def main() -> None:
    """Runs, looks at the rows, publishes."""
    config = replace(preset("mbpo", "brax/halfcheetah"), env_steps=3_000)
    directory = run(config, "brax_halfcheetah_mbpo_s0_1")
    found = learned(directory, config.seed)
    print(found)
    plots.curve([directory], RESULTS / "halfcheetah.png")
    print("written to", publish("halfcheetah", found, {"mbpo": config}, [directory]))


if __name__ == "__main__":
    main()
