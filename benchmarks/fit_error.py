"""Which settings of a fit lower the model's error soonest: errors, likelihood, minibatches and seconds of each arm.

    make bench NAME=fit_error      # a quarter of an hour of one core: results/bench/fit_error.json

A run of `mbpo` on Hopper gathers rows. Then each arm, the model of small worlds with one or more settings changed, is
fitted from nothing and fitted again after every `EVERY` further rows, as in a run. `next` is of the following `EVERY`
rows, which another policy has gathered; `held_out` is of the rows by which a fit stops and elites are chosen. Errors
are mean squares in variances of the targets, the mean over elites; `nll` and `coverage_90` are those of their mixture
(`dynamics.uncertainty.calibration`). Seconds are those of the processor. Means and deviations are over the later half
of the fits. The bounds of the log-variance still move in these few fits, so that `nll` falls further in a long run.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS
from branchax import replay
from branchax.build import make_world
from branchax.config import Config, ModelConfig, to_dict
from branchax.config.fields import with_fields
from branchax.dynamics import ensemble, fit, uncertainty
from branchax.optimizer import adam
from branchax.presets import PRESETS, preset
from branchax.runs import rundir
from branchax.runs.restoring import collected
from branchax.runs.train import train
from branchax.types import Row, Transition

WORLD, FOLDER, FIRST, LAST, EVERY = "gym/Hopper-v5", Path("runs/bench/fit_error"), 4_500, 6_000, 250
NORM, WIDE, LONG = {"pre_norm": True}, {"hidden": (128, 128, 128)}, {"max_rounds": 100}
ARMS: dict[str, dict[str, Any]] = {
    "of small worlds": {},
    "longer": LONG,
    "batches of 512, half as many": {"batch_size": 512, "round_steps": 25},
    "LayerNorm": NORM,
    "constant noise": {"noise": "constant"},
    "beta 0.5": {"beta": 0.5},
    "beta 1": {"beta": 1.0},
    "LayerNorm, constant noise": NORM | {"noise": "constant"},
    "LayerNorm, beta 0.5": NORM | {"beta": 0.5},
    "LayerNorm, beta 0.5, half as long": NORM | {"beta": 0.5, "max_rounds": 5},
    "128 units": WIDE,
    "128 units, LayerNorm, beta 0.5": WIDE | NORM | {"beta": 0.5},
    "128 units, longer": WIDE | LONG,
}


def gather(config: Config) -> Transition:
    """The rows of a run of `mbpo`, in order; the run goes on if it is there."""
    return collected(train(config, FOLDER))


def cut(rows: Transition, start: int, stop: int) -> Transition:
    """The rows from `start` to `stop`, on the device."""
    return jax.tree.map(lambda x: jnp.asarray(x[start:stop]), rows)


def measure(config: ModelConfig, rows: Transition) -> dict[str, list[float]]:
    """Mean and deviation over the later half of the fits."""
    spec = make_world(preset("mbpo", WORLD)).spec
    fitter = fit.Fitter(config, spec, ensemble.network(spec, config), adam(), learns_ends=False)
    model, each = fit.init(fitter, jax.random.key(0)), []
    capacity = 1 << (LAST - 1).bit_length()

    @jax.jit
    def judge(model: ensemble.Ensemble, latest: Transition) -> dict[str, jax.Array]:
        x, y, *_ = fit.as_batch(fitter, model.scales, latest)
        found = ensemble.predict_all(fitter.net, model, x)
        told = uncertainty.calibration(found.mean, found.log_var, y, jnp.ones(len(y), bool))
        mixture = {f"{name}_next": told[f"model/{name}"] for name in ("nll", "coverage_90")}
        return {"error_next": ((found.mean - y) ** 2).mean(), **mixture}

    compiled: Any = None
    for number, count in enumerate(range(FIRST, LAST, EVERY)):
        first = cut(rows, 0, count)
        empty = replay.init(Row(jax.tree.map(lambda x: x[0], first)), capacity)
        arguments = jax.random.key(number), model, replay.add(empty, Row(first))
        compiled = compiled or jax.jit(functools.partial(fit.fit, fitter)).lower(*arguments).compile()
        begun = time.process_time()
        model, report = jax.block_until_ready(compiled(*arguments))
        seconds = time.process_time() - begun
        told = judge(model, cut(rows, count, count + EVERY))
        told |= {"error_held_out": report.metrics["model/holdout_error"], "nll_held_out": report.metrics["model/nll"]}
        minibatches = report.metrics["model/fit_rounds"] * config.round_steps
        each.append({"minibatches": float(minibatches), "seconds": seconds} | {k: float(v) for k, v in told.items()})
    later = each[len(each) // 2 :]
    return {name: [float(of([one[name] for one in later])) for of in (np.mean, np.std)] for name in later[0]}


def main() -> None:
    """Measures all arms and writes `results/bench/fit_error.json`."""
    gathering = preset("mbpo", WORLD, seed=20, env_steps=LAST + EVERY, eval_episodes=1)
    rows, found = gather(gathering), {}
    for name, changes in ARMS.items():
        found[name] = measure(with_fields(PRESETS["mbpo"].model, changes), rows)
        print(f"fit_error: {name}: {found[name]}", flush=True)
    made = {"command": "make bench NAME=fit_error", "environment": rundir.environment()}
    rundir.write_json(
        RESULTS / "fit_error.json",
        {"benchmark": "fit_error", "gathering": to_dict(gathering), "arms": ARMS, "found": found, "made": made},
    )
    table = Table("arm", *next(iter(found.values())), title="means over the later half of the fits")
    for name, each in found.items():
        table.add_row(name, *(f"{mean:.3g}" for mean, _ in each.values()))
    Console(width=140).print(table)
