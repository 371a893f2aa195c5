"""Claim: the winner depends on horizon and chaos, and total propagation is never far from it.

    smooth   on short rollouts of a pendulum and of a linear system the pathwise gradient has at least 50 times less
             variance than the likelihood ratio with a baseline
    chaotic  on long rollouts of a double pendulum and of a model of it, it has at least 10,000 times more, and its
             direction says nothing: its cosine to the truth is zero within what noise makes (so it is in the model;
             this policy calms the pendulum itself too much)
    mixed    the variance of total propagation is at most twice the smaller of the two, everywhere

Each case is one random policy (the linear one is half the optimal gain) with noise of deviation 0.3; variances are per
sample, in batches of 128, over 64 independent batches.

    python -m experiments.gradients                # all of it, or what is missing of it
    python -m experiments.gradients pendulum       # one case
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from branchax.devices import cache
from branchax.lab import cases, measure, report
from branchax.runs import rundir
from experiments.harness import RESULTS, RUNS, publish

SETTINGS = measure.Settings(samples=128, chunk=4, truth_seconds=240.0, truth_error=0.05, limit_seconds=600.0)
ESTIMATORS = ("pathwise", "likelihood_baseline", "inverse_variance", "total_propagation")
HORIZONS = (1, 2, 5, 10, 20, 50, 100, 200)
# name: (world, dynamics)
CASES = {
    "lqr": ("classic/lqr", "known"),
    "pendulum": ("classic/pendulum", "known"),
    "double_pendulum": ("classic/double_pendulum", "known"),
    "double_pendulum_learned": ("classic/double_pendulum", "learned"),
}
SMOOTH, SHORT = ("lqr", "pendulum"), 5
CHAOTIC, LONG = ("double_pendulum", "double_pendulum_learned"), 200
FEWER, MORE, FACTOR = 50.0, 1e4, 2.0


def measured(name: str) -> tuple[list[measure.Level], dict[str, Any]]:
    """The levels of a case, from its file if it has been measured before."""
    path = RUNS / f"gradients_{name}.json"
    if not path.exists():
        start, (world, dynamics) = time.perf_counter(), CASES[name]
        case = cases.make_case(world, dynamics, steps=4_000)
        makers, refused = cases.possible(case, ESTIMATORS, SETTINGS.samples)
        assert not refused, refused
        references, levels = cases.references(case, SETTINGS.samples), []
        for level in measure.survey(
            case.problem, case.params, makers, HORIZONS, SETTINGS, exact=case.exact, references=references
        ):
            levels.append(level)
            print(name, report.heading(level), flush=True)
            for estimator, s in level.scores.items():
                print(
                    f"  {estimator:<20} variance {s.variance:.3g} cosine {s.cosine:.3f}, {s.seconds:.3g} s", flush=True
                )
        facts = {
            "case": case.about,
            "settings": SETTINGS._asdict(),
            "seconds": round(time.perf_counter() - start, 1),
            "environment": rundir.environment(),
        }
        report.write(path, levels, facts)
    return report.read(path)


def ratios(levels: list[measure.Level], first: str, second: str) -> dict[int, float]:
    """Variance of `first` over variance of `second`, by horizon."""
    return {level.horizon: level.scores[first].variance / level.scores[second].variance for level in levels}


def verdict(found: dict[str, list[measure.Level]]) -> dict[str, Any]:
    """Each claim with the number that decides it."""
    fewer = {name: ratios(found[name], "likelihood_baseline", "pathwise")[SHORT] for name in SMOOTH}
    more = {name: ratios(found[name], "pathwise", "likelihood_baseline")[LONG] for name in CHAOTIC}
    cosine = {}
    for name in CHAOTIC:
        (level,) = [level for level in found[name] if level.horizon == LONG]
        path, ratio = level.scores["pathwise"], level.scores["likelihood_baseline"]
        cosine[name] = {
            "pathwise": path.cosine,
            "error": path.cosine_error,
            "likelihood_baseline": ratio.cosine,
            "truth_known_to": level.truth.relative_error,
            "is_zero": bool(abs(path.cosine) <= measure.SIGNIFICANT * path.cosine_error),
        }
    mixed = {
        name: {
            level.horizon: level.scores["total_propagation"].variance
            / min(level.scores["pathwise"].variance, level.scores["likelihood_baseline"].variance)
            for level in levels
        }
        for name, levels in found.items()
    }
    worst = {name: max(by.values()) for name, by in mixed.items()}
    return {
        "smooth": {"horizon": SHORT, "times_less": fewer, "holds": min(fewer.values()) >= FEWER},
        "chaotic": {"horizon": LONG, "times_more": more, "holds": min(more.values()) >= MORE},
        "direction": {"horizon": LONG, **cosine, "holds": all(c["is_zero"] for c in cosine.values())},
        "mixed": {"times_the_better": mixed, "worst": worst, "holds": max(worst.values()) <= FACTOR},
    }


def main() -> None:
    """Measures, compares, publishes."""
    cache.enable()
    if sys.argv[1:]:
        for name in sys.argv[1:]:
            measured(name)
        return
    found, parts = {}, {}
    for name, (world, dynamics) in CASES.items():
        levels, facts = measured(name)
        report.draw(RESULTS / f"gradients_{name}.png", levels, f"{world}, {dynamics} dynamics")
        found[name], crosses = levels, measure.crossing(levels, "pathwise", "likelihood_baseline")
        rows = [{"horizon": level.horizon, "truth": _truth(level), **_scores(level)} for level in levels]
        parts[name] = {**facts, "crosses_at": crosses, "levels": rows}
    claims = verdict(found)
    for name, claim in claims.items():
        print(name, claim)
    print("written to", publish("gradients", {"claims": claims, "cases": parts}, {}, []))


def _truth(level: measure.Level) -> dict[str, Any]:
    truth = level.truth
    return {
        "norm": truth.norm,
        "relative_error": truth.relative_error,
        "source": truth.source,
        "samples": truth.samples,
    }


def _scores(level: measure.Level) -> dict[str, Any]:
    return {
        name: {
            k: v if isinstance(v, (bool, int)) else float(np.format_float_scientific(v, 3))
            for k, v in s._asdict().items()
        }
        for name, s in level.scores.items()
    }


if __name__ == "__main__":
    main()
