"""Claim: `dhmbpo_tiny` and `mbpo` learn Brax's inverted pendulum in a few hundred real steps on each of 20 seeds; and
how many of these lose it again.

The seeds are 340 to 359, on which nothing else was run but earlier versions of these presets (they were chosen on 20 to
29), five side by side in a run, evaluated every 50 real steps. A seed has learned the task at the first of three
evaluations in a row that reach 950 of 1,000. Of the evaluations after that, those below 950 are its lapses. It keeps
the task if the last three reach 950.

    python -m experiments.inverted_pendulum                   # what results/inverted_pendulum.json does not hold
    python -m experiments.inverted_pendulum --again           # all of it, whatever that file holds
    python -m experiments.inverted_pendulum dhmbpo_tiny 345   # the seeds from 345 on, to run several side by side
    python -m experiments.inverted_pendulum --done            # publish what there is

What was published before counts as well, where its settings are still those of today; so in a fresh clone the first
command has nothing to run. Runs that are in `runs/` count in any case.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from branchax.config import Config
from branchax.presets import preset
from branchax.runs import plots, rundir
from branchax.runs.train import train
from experiments.harness import RESULTS, RUNS, curves, differences, made_with, publish, read_results, steps_to

WORLD, PRESETS = "brax/inverted_pendulum", ("dhmbpo_tiny", "mbpo")
FIRSTS, COUNT = (340, 345, 350, 355), 5
STEPS, EVERY, THRESHOLD, LAST = 1_000, 50, 950.0, 3
FILE = RESULTS / "inverted_pendulum.json"


def config_of(name: str, first: int) -> Config:
    """A preset's own settings, for the seeds from `first` on."""
    config = preset(name, WORLD)
    often = max(1, EVERY // config.epoch_steps)
    return replace(config, seed=first, seeds=COUNT, env_steps=STEPS, eval_every=often, eval_episodes=10)


def directory_of(name: str, first: int) -> Path:
    """The directory of the run of the seeds from `first` on."""
    return RUNS / f"inverted_pendulum_{name}_s{first}"


def score(steps: np.ndarray, returns: np.ndarray) -> dict[str, Any]:
    """What a curve shows: when it has learned, its lapses afterwards, and whether it keeps the task."""
    at = steps_to(steps, returns, THRESHOLD)
    after = returns[steps >= at] if at is not None else returns[:0]
    return {
        "learned_at": at,
        "lapses": int((after < THRESHOLD).sum()),
        "evaluations_after": len(after),
        "last_three": float(returns[-LAST:].mean()),
        "keeps": bool(at is not None and (returns[-LAST:] >= THRESHOLD).all()),
    }


def scores_of(name: str, first: int) -> dict[str, dict[str, Any]]:
    """The scores of the seeds of a run; empty unless it is done, with today's settings."""
    directory = directory_of(name, first)
    if not (directory / rundir.METRICS).exists():
        return {}
    found = curves(directory)
    done = len(found) == COUNT and all(steps[-1] >= STEPS for steps, _ in found.values())
    done = done and made_with(directory, config_of(name, first))
    return {str(seed): score(*curve) for seed, curve in found.items()} if done else {}


def summarise(scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One preset's scores over its seeds; seeds that have not learned count with all steps."""
    at = np.array([STEPS if each["learned_at"] is None else each["learned_at"] for each in scores.values()], float)
    return {
        "seeds": len(scores),
        "learned": sum(each["learned_at"] is not None for each in scores.values()),
        "keeps": sum(each["keeps"] for each in scores.values()),
        "learned_at_mean": float(at.mean()),
        "learned_at_sd": float(at.std(ddof=len(at) > 1)),
        "learned_at_last": float(at.max()),
        "lapses": sum(each["lapses"] for each in scores.values()),
        "evaluations_after": sum(each["evaluations_after"] for each in scores.values()),
        "seeds_that_lapse": sum(each["lapses"] > 0 for each in scores.values()),
    }


def as_table(summaries: dict[str, dict[str, Any]]) -> str:
    """A row for each preset."""
    text = (
        "| preset | seeds | learned at step, mean ± SD (last) | lapses, of those after | seeds that keep it |\n"
        "|---|---|---|---|---|\n"
    )
    for name, s in summaries.items():
        at = f"{s['learned_at_mean']:,.0f} ± {s['learned_at_sd']:,.0f} ({s['learned_at_last']:,.0f})"
        lapses = f"{s['lapses']} of {s['evaluations_after']} (seeds that lapse: {s['seeds_that_lapse']})"
        text += f"| `{name}` | {s['seeds']} | {at} | {lapses} | {s['keeps']} |\n"
    return text


def main(arguments: list[str]) -> None:
    """Runs, scores, publishes."""
    parts = [[name, str(first)] for name in PRESETS for first in FIRSTS]
    if arguments not in ([], ["--again"], ["--done"], *parts):
        allowed = f"nothing, --again, --done, or {' '.join(parts[0])}"
        raise SystemExit(f"{' '.join(arguments)} is not possible; allowed: {allowed}")
    if len(arguments) == 2:
        train(config_of(arguments[0], int(arguments[1])), directory_of(arguments[0], int(arguments[1])))
        return
    earlier, again = read_results(FILE), arguments == ["--again"]
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    used = []
    for name in PRESETS:
        then = earlier.get("scores", {}).get(name, {})
        settings = earlier.get("configs", {}).get(name, {})
        scores[name] = {} if differences(settings, config_of(name, FIRSTS[0])) else dict(then)
        for first in FIRSTS:
            if arguments != ["--done"] and (again or str(first) not in scores[name]):
                train(config_of(name, first), directory_of(name, first))
            if found := scores_of(name, first):
                scores[name] |= found
                used.append(directory_of(name, first))
    scores = {name: found for name, found in scores.items() if found}
    summaries = {name: summarise(found) for name, found in scores.items()}
    for name, summary in summaries.items():
        print(name, summary)
    for name in PRESETS:  # a figure needs all seeds of a preset on this machine; without them it stays as it is
        directories = [directory_of(name, first) for first in FIRSTS]
        if set(directories) <= set(used):
            plots.curve(directories, RESULTS / f"inverted_pendulum_{name}.png")
    (RESULTS / "inverted_pendulum.md").write_text(as_table(summaries), encoding="utf-8")
    configs = {name: config_of(name, FIRSTS[0]) for name in scores}
    data = {"steps": STEPS, "threshold": THRESHOLD, "summary": summaries, "scores": scores}
    kept = {name: run for name, run in earlier.get("runs", {}).items() if name.startswith("inverted_pendulum_")}
    print("written to", publish("inverted_pendulum", data, configs, used, kept))


if __name__ == "__main__":
    main(sys.argv[1:])
