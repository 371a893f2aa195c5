"""Claim: what 3.0 lacks is not the model's fault; what 2.0 lacks is not either.

The runs of `versions` again with the simulator itself in place of the learned model, all else alike. What the score
gains is what the model's errors cost; what is still missing to 1 is the method's own.

    python -m experiments.lecture.oracle           # with the settings of `versions`, whose runs it shares
    python -m experiments.lecture.oracle --full
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from experiments.harness import run
from experiments.lecture import versions
from experiments.lecture.claim import Claim, Found, Prediction, bootstrap, directory, legend, main, save, whiskers

PAIRS = [
    (world, name) for world in versions.WORLDS for name in versions.methods(world) if name in ("v2.0", "v2.5", "mbpo")
]

CLAIM = Claim(
    name="oracle",
    title="The simulator in place of the model",
    words="With a perfect model 3.0 scores about what it does with the learned one, and backpropagation through 200 "
    "steps of the pendulum itself fails as it does through the model: what is missing is the method's.",
    intervals="interquartile mean over seeds and worlds, bootstrap over seeds within each world",
    note="Five seeds, with the budgets of `versions` and their second run; in the first, the verdicts were the same.",
    predictions={
        "3.0": Prediction("score of 3.0 with the simulator minus with the model is at most 0.2", 0.2, False),
        "2.5": Prediction("score of 2.5 with the simulator minus with the model is at most 0.2", 0.2, False),
        "2.0 on the pendulum": Prediction("2.0 with the simulator scores at most 0.7 on the pendulum", 0.7, False),
    },
)


def measure(full: bool) -> Found:
    """Runs what is missing and compares."""
    found: dict[str, dict[str, Any]] = {}
    configs, directories = {}, []
    for world, name in PAIRS:
        pair = {}
        for kind in ("learned", "simulator"):
            fields = {"model__kind": "oracle"} if kind == "simulator" else {}
            config = versions.config_of(name, world, full, **fields)
            claim, label = ("oracle", f"{world}_oracle_{name}") if fields else ("versions", f"{world}_{name}")
            where = run(config, directory(claim, full, label))
            pair[kind] = versions.result(where, world)
            configs[f"{world} {name} {kind}"] = config
            directories.append(where)
        found[f"{world} {name}"] = pair

    def last(name: str, kind: str) -> list[list[float]]:
        return [found[f"{world} {n}"][kind]["last"] for world, n in PAIRS if n == name]

    measured = {
        "3.0": bootstrap(versions.difference, *last("mbpo", "simulator"), *last("mbpo", "learned")),
        "2.5": bootstrap(versions.difference, *last("v2.5", "simulator"), *last("v2.5", "learned")),
        "2.0 on the pendulum": bootstrap(versions.score_of, found["classic/pendulum v2.0"]["simulator"]["last"]),
    }
    scores = {
        key: {kind: list(bootstrap(versions.score_of, pair[kind]["last"])) for kind in pair}
        for key, pair in found.items()
    }
    return Found(measured, {"runs": found, "scores": scores}, configs, directories)


def draw(data: dict[str, Any], path: Path) -> None:
    """The last scores with the learned model and with the simulator, side by side."""

    def fill(axes: Axes) -> None:
        scores = data["scores"]
        for i, (kind, mark) in enumerate((("learned", "o"), ("simulator", "s"))):
            label = {"learned": "learned model", "simulator": "the simulator itself"}[kind]
            places = [x + 0.2 * i - 0.1 for x in range(len(scores))]
            whiskers(axes, places, [s[kind] for s in scores.values()], label, i, mark)
        for drawn in axes.get_lines():
            drawn.set_linestyle("none")
        names = [key.rsplit(" ", 1) for key in scores]
        labels = [f"{versions.METHODS[n].partition(' ')[0]}, {w.partition('/')[2]}" for w, n in names]
        axes.set_xticks(range(len(scores)), labels, rotation=35, ha="right")
        axes.axhline(1, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(ylabel="score after all real steps\n(0: random, 1: solved)")
        legend(axes, "interquartile mean, 95 % bootstrap interval", 2)
        axes.grid(axis="x", visible=False)

    save(path, [2.4], fill, above=0.4)


if __name__ == "__main__":
    main(CLAIM, measure, draw, compiles_much=True)
