"""What a fit buys: error and likelihood on rows that the model has not seen, by the settings of a fit and its seconds.

    make bench NAME=fit_error      # a quarter of an hour of one core: results/bench/fit_error.json

A run of `mbpo` on Hopper gathers rows. Then each arm fits a model from nothing, and goes on with `EVERY` more rows at a
time, as in a run. Errors are mean squares in variances of the targets, the mean over elites: on held-out rows, and on
the next `EVERY` rows, which another policy has gathered. Seconds are those of the processor. The first half of the fits
is left out.
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
from branchax.config import Config, ModelConfig
from branchax.config.fields import with_fields
from branchax.dynamics import ensemble, fit
from branchax.optimizer import adam
from branchax.presets import preset
from branchax.runs import rundir
from branchax.runs.restoring import collected
from branchax.runs.train import train
from branchax.types import Row, Transition

WORLD, FOLDER, FIRST, LAST, EVERY = "gym/Hopper-v5", Path("runs/bench/fit_error"), 4_500, 6_000, 250
NORM, WIDE, LONG = {"pre_norm": True}, {"hidden": (128, 128, 128)}, {"max_rounds": 100}
ARMS: dict[str, dict[str, Any]] = {
    "mbpo": {},
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


def measure(config: ModelConfig, rows: Transition) -> dict[str, float]:
    """Means over the later half of the fits: errors, negative log-likelihood, minibatches and seconds."""
    spec = make_world(preset("mbpo", WORLD)).spec
    fitter = fit.Fitter(config, spec, ensemble.network(spec, config), adam(), learns_ends=False)
    model, each = fit.init(fitter, jax.random.key(0)), []
    capacity = 1 << (LAST - 1).bit_length()

    @jax.jit
    def judge(model: ensemble.Ensemble, latest: Transition) -> dict[str, jax.Array]:
        x, y, *_ = fit.as_batch(fitter, model.scales, latest)
        found = ensemble.predict_all(fitter.net, model, x)
        likelihood = ensemble.negative_log_likelihood(found, y) / y.shape[-1]
        return {"error_next": ((found.mean - y) ** 2).mean(), "nll_next": likelihood.mean()}

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
    return {name: float(np.mean([one[name] for one in later])) for name in later[0]}


def main() -> None:
    """Measures all arms and writes `results/bench/fit_error.json`."""
    config = preset("mbpo", WORLD)
    config = with_fields(config, {"seed": 20, "env_steps": LAST + EVERY, "eval_episodes": 1})
    rows, found = gather(config), {}
    for name, changes in ARMS.items():
        found[name] = measure(with_fields(config.model, changes), rows)
        print(f"fit_error: {name}: {found[name]}", flush=True)
    made = {"command": "make bench NAME=fit_error", "environment": rundir.environment()}
    rundir.write_json(
        RESULTS / "fit_error.json", {"benchmark": "fit_error", "arms": ARMS, "found": found, "made": made}
    )
    table = Table("arm", *found["mbpo"], title="means over the later half of the fits")
    for name, means in found.items():
        table.add_row(name, *(f"{value:.3g}" for value in means.values()))
    Console(width=140).print(table)
