"""A cost model of an epoch: seconds from its sizes (`flops.py`) and a machine's few numbers, held to a measurement.

    imagine   model steps x operations of one / rate of imagining
    improve   updates x max(latency, operations of one / rate of updates) + what they wait for other devices
    fit       minibatches x max(latency, operations of one / rate of fitting) + the same
    collect   real steps x seconds of one

Nothing else is in it: no write into the buffers, no look at a holdout, nothing between the parts. How many rounds a fit
takes depends on the data, so it is given.

    python -m benchmarks cost

takes this machine's rates at Hopper's sizes, in benchmarks of one part each, then predicts whole epochs of other sizes,
worlds and horizons and times them, all in turns: `results/bench/cost.json`. It also has the predictions of
`experiments/scale.py` for 8 accelerators and 10^9 model steps: rates of one are measured, what joins several is not.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import fit, flops, imagine, improve
from benchmarks.harness import HOPPER, RESULTS, WARM, Case, built, ceilings
from benchmarks.mbpo_paper import seconds
from branchax.config import Config, RolloutConfig, SACConfig
from branchax.presets import preset
from branchax.runs import rundir

TURNS = 5


@dataclass(frozen=True)
class Machine:
    """What a device does, and what joins several. The defaults of one device are an H200's (`benchmarks/NOTES.md`) in
    float32, without TF32 and without flags; those of what joins several are assumed and not measured."""

    imagine: float = 17e12  # operations per s: 100,000 rollouts, all groups side by side
    improve: float = 24e12  # of 64 seeds at once
    fit: float = 15e12  # of 8 seeds at once
    update: float = 168e-6  # s that an update of 2 x 256 networks on 256 rows takes at least: latency
    minibatch: float = 234e-6  # s that a minibatch of the fit takes at least: latency as well
    env_step: float = 2.9e-3  # s per real step of Brax's Hopper, however few worlds: some 2,000 small kernels
    near: float = 15e-6  # s per small reduction between the devices of a host
    far: float = 40e-6  # s per small reduction between hosts
    per_host: int = 8


@dataclass(frozen=True)
class Work:
    """What a seed does per env step."""

    updates: float
    model_steps: float
    minibatches: float
    step_flops: float
    update_flops: float
    minibatch_flops: float
    update_reductions: float = 5  # two gradients, two for the drawn rows, one of a metric (tests/test_mesh.py)
    fit_reductions: float = 1


def work(config: Config, obs: int, action: int, horizon: float, rounds: float) -> Work:
    """The work of a config that imagines into a buffer for SAC, at a mean `horizon` and `rounds` per fit."""
    model, agent = config.model, config.agent
    assert isinstance(agent, SACConfig)
    return Work(
        updates=config.updates_per_step,
        model_steps=config.rollout.per_step * horizon,
        minibatches=rounds * model.round_steps / config.epoch_steps,
        step_flops=flops.model_step(obs, action, model, agent),
        update_flops=config.batch_size * flops.sac_row(obs, action, agent),
        minibatch_flops=model.members * model.batch_size * flops.model_fit(obs, action, model),
    )


def predict(does: Work, machine: Machine, over_batch: int, env_steps: float) -> dict[str, float]:
    """Seconds of each term in so many env steps of a seed, on `over_batch` devices of its own."""
    reduction = 0.0 if over_batch == 1 else machine.near if over_batch <= machine.per_host else machine.far
    update = max(machine.update, does.update_flops / machine.improve)
    minibatch = max(machine.minibatch, does.minibatch_flops / machine.fit)
    return {
        "imagine": env_steps * does.model_steps * does.step_flops / machine.imagine / over_batch,
        "improve": env_steps * does.updates * (update + does.update_reductions * reduction),
        "fit": env_steps * does.minibatches * (minibatch + does.fit_reductions * reduction),
        "collect": env_steps * machine.env_step,
    }


# MBPO on Hopper at the paper's sizes, 20 updates per step, at the mean of the horizons 1 to 15, and 35 rounds a fit.
HOPPER_WORK = work(preset("mbpo_paper", "brax/hopper"), *HOPPER, horizon=8, rounds=35)
LAYOUTS = ((1, 1, 1), (8, 1, 8), (8, 8, 1), (64, 1, 64), (64, 8, 8), (64, 64, 1))  # devices, seeds, devices of each


def predictions(model_steps: float = 1e9) -> list[dict[str, Any]]:
    """Seconds until each seed on Hopper has taken so many model steps on accelerators, by layout."""
    found = []
    for devices, seeds, over_batch in LAYOUTS:
        terms = predict(HOPPER_WORK, Machine(), over_batch, model_steps / HOPPER_WORK.model_steps)
        total = sum(terms.values())
        row = {"devices": devices, "seeds": seeds, "over_batch": over_batch, "seconds": terms, "total_s": total}
        found.append(row | {"model_steps_per_s": seeds * model_steps / total})
    return found


def epochs() -> dict[str, Config]:
    """What is predicted: epochs of 25 real steps whose fits take 5 rounds."""
    base = replace(preset("mbpo_paper"), explore_steps=1_000, epoch_steps=25, env_steps=20_000, replay_capacity=10_000)
    base = replace(base, model=replace(base.model, max_rounds=5, patience=6, good_error=0.0))
    pendulum = replace(base, world="classic/pendulum")
    narrow = {"model": replace(base.model, members=5, elites=3), "agent": SACConfig(hidden=(128, 128))}
    return {
        "inverted pendulum": base,
        "pendulum, horizon 5": replace(pendulum, rollout=RolloutConfig(horizon=5)),
        "pendulum, SAC 2 x 128 on batches of 512, 5 members": replace(pendulum, batch_size=512, **narrow),
    }


class Call:
    """A compiled call that carries its state."""

    def __init__(self, case: Case) -> None:
        self.state, *self.rest = case.arguments
        self.compiled = jax.jit(case.function, donate_argnums=0).lower(*case.arguments).compile()
        for _ in range(WARM):
            self()

    def __call__(self) -> float:
        """Seconds of one."""
        elapsed, self.state = seconds(self.compiled, self.state, *self.rest)
        return elapsed


def measure(turns: int = TURNS) -> dict[str, Any]:
    """The rates of the parts at Hopper's sizes, and epochs of other sizes beside what the rates predict for them."""
    parts = {
        "imagine": imagine.case(10_000, 1),
        "improve": improve.case((256, 256), 256, 2),
        "fit": fit.case("7 x (4 x 200)"),
    }
    calls = {name: Call(case) for name, case in parts.items()}
    whole, steps, sizes = {}, {}, {}
    for name, config in epochs().items():
        program, state = built(config)
        assert program.stages is not None
        sizes[name] = program.spec.obs_size, program.spec.action_size
        collect, epoch = program.stages.collect, program.epoch
        copied = jax.tree.map(jnp.copy, state)

        def several(s: Any, f: Any = collect, n: int = config.epoch_steps) -> Any:
            return jax.lax.scan(lambda s, _: (f(s)[0], None), s, None, length=n)[0]

        steps[name] = Call(Case({}, several, (copied,), 1, None, True))
        whole[name] = Call(
            Case({}, lambda s, h, f=epoch: f(s, h)[0], (state, jnp.int32(config.rollout.horizon)), 1, None, True)
        )
    top = ceilings()["matmul_gflops"]
    rates: dict[str, list[float]] = {name: [] for name in parts}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in whole}
    for _ in range(turns):
        turn = {name: float(parts[name].flops or 0) / call() for name, call in calls.items()}
        for name, rate in turn.items():
            rates[name].append(rate)
        for name, call in whole.items():
            config = epochs()[name]
            env_step = steps[name]() / config.epoch_steps
            machine = Machine(**turn, update=0.0, minibatch=0.0, env_step=env_step)
            does = work(config, *sizes[name], horizon=config.rollout.horizon, rounds=config.model.max_rounds)
            terms = predict(does, machine, 1, config.epoch_steps)
            found[name].append({"predicted_s": sum(terms.values()), "terms_s": terms, "measured_s": call()})
    top = max(top, ceilings()["matmul_gflops"])
    rows = []
    for name, each in found.items():
        ratios = [x["measured_s"] / x["predicted_s"] for x in each]
        median = statistics.median(ratios)
        rows.append({"case": name, "measured_over_predicted": median, "ratios": ratios, "turns": each})
    middle = {name: statistics.median(rate) for name, rate in rates.items()}
    return {
        "matmul_gflops": top,
        "gflops": {name: rate / 1e9 for name, rate in middle.items()},
        "of_matmul_ceiling": {name: rate / 1e9 / top for name, rate in middle.items()},
        "epochs": rows,
        "within_30_percent": all(1 / 1.3 <= row["measured_over_predicted"] <= 1.3 for row in rows),
        "accelerators": predictions(),
    }


def main() -> None:
    """Measures and writes `results/bench/cost.json`."""
    found = measure()
    made = {"command": "python -m benchmarks cost", "environment": rundir.environment()}
    rundir.write_json(RESULTS / "cost.json", {"benchmark": "cost", **found, "made": made})
    table = Table("epoch", "predicted", "measured", "ratio", "of each turn", title="a cost model of an epoch")
    for row in found["epochs"]:
        predicted, measured = (statistics.median(x[k] for x in row["turns"]) for k in ("predicted_s", "measured_s"))
        spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        ratio = f"{row['measured_over_predicted']:.2f}"
        table.add_row(row["case"], f"{predicted:.2f} s", f"{measured:.2f} s", ratio, spread)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
