"""What the benchmarks count and how two of their results are compared."""

import dataclasses
import json
import math
import subprocess
import sys
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from benchmarks import compare, cost, epoch, fit_error, flops, imagine, linear, newcomer
from benchmarks import compile as start
from benchmarks.harness import HOPPER, Case, built, run
from branchax.agents.base import Sources
from branchax.agents.sac import make_sac
from branchax.checks import check
from branchax.config import CriticConfig, ModelConfig, SACConfig
from branchax.config.fields import with_fields
from branchax.dynamics import ensemble
from branchax.presets import PRESETS, preset
from branchax.types import Row, Transition
from branchax.worlds.base import WorldSpec

SPEC = WorldSpec("sizes", 5, 2, 100)


def products(jaxpr):
    """Operations of all matrix products in a jaxpr, inner ones included, and those of a scan as often as it is long."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            inner = np.prod([equation.invars[0].aval.shape[i] for i in contracted])
            total += 2 * int(inner) * int(np.prod(equation.outvars[0].aval.shape))
        for inner in jaxprs_in_params(equation.params):
            total += products(inner) * equation.params.get("length", 1)
    return total


def count(function, *arguments):
    return products(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize("critics", [2, 5])
def test_an_update_of_sac_takes_the_products_that_are_counted(critics):
    config, batch = SACConfig(hidden=(7, 11), critic=CriticConfig(members=critics)), 3
    agent = make_sac(SPEC, config)
    none = jnp.zeros(batch, bool)
    row = Row(Transition(jnp.ones((batch, 5)), jnp.ones((batch, 2)), jnp.ones(batch), jnp.ones((batch, 5)), none, none))
    sources = Sources(lambda key: row, None)
    params = jax.jit(agent.init)(jax.random.key(0))
    update = lambda params: agent.update(jax.random.key(1), params, sources)[0]  # noqa: E731
    assert count(update, params) == batch * flops.sac_row(5, 2, config)


def test_a_member_s_minibatch_takes_the_products_that_are_counted():
    config = ModelConfig(hidden=(7, 11))
    net = ensemble.network(SPEC, config)
    params = ensemble.init_member(jax.random.key(0), net, SPEC, ModelConfig())
    x, y = jnp.ones((3, 7)), jnp.ones((3, 6))
    loss = lambda p: ensemble.negative_log_likelihood(ensemble.predict(net, p, x), y).mean()  # noqa: E731
    ends = flops.trained(flops.model_sizes(5, 2, config, ends=True))  # the head for ends is there in any case
    assert count(jax.grad(loss), params) == 3 * ends


def test_a_case_is_compiled_once_and_timed():
    calls = []

    def function(x, y):
        calls.append(1)
        return x + y

    row = run(Case({"n": 4}, function, (jnp.zeros(4), jnp.ones(4)), work=4, flops=8, carried=True), repeats=3)
    assert len(calls) == 1 and len(row["seconds"]) == 3
    assert row["per_second"] == pytest.approx(4 / np.median(row["seconds"]))
    assert row["flops_per_second"] == pytest.approx(2 * row["per_second"])


def written(path, factor, case="n"):
    noise = np.random.default_rng(0).uniform(0.95, 1.05, (2, 7))
    rows = [{"settings": {case: i}, "seconds": list(x / (factor if i else 1))} for i, x in enumerate(noise)]
    path.write_text(json.dumps({"benchmark": "toy", "rows": rows, "made": {"environment": {"jax": str(factor)}}}))
    return str(path)


def test_compare_says_what_moved_beyond_the_noise(tmp_path, capsys):
    first, second, slow = (written(tmp_path / f"{f}.json", f) for f in (1.0, 1.5, 0.5))
    assert compare.main([first, second]) == 0
    output = capsys.readouterr().out
    assert output.count("faster") == 1 and "slower" not in output and "1.50" in output and "jax: 1.0 -> 1.5" in output
    assert compare.main([first, slow]) == 0
    assert capsys.readouterr().out.count("slower") == 1
    assert compare.main([first, first]) == 0
    assert "0 of 2 moved" in capsys.readouterr().out


def test_compare_takes_other_work_for_no_slowdown(tmp_path, capsys):
    first, second = (written(tmp_path / f"{f}.json", f) for f in (1.0, 0.5))
    found = json.loads((tmp_path / "0.5.json").read_text())
    found["rows"][1]["flops"] = 8
    (tmp_path / "0.5.json").write_text(json.dumps(found))
    assert compare.main([first, second]) == 0
    said = capsys.readouterr().out
    assert "other work" in said and "slower" not in said and "0 of 2 moved" in said


def test_folders_are_compared_file_by_file(tmp_path, capsys):
    for folder, factor in (("a", 1.0), ("b", 1.5)):
        (tmp_path / folder).mkdir()
        for name in ("fit", "imagine"):
            written(tmp_path / folder / f"{name}.json", factor)
        (tmp_path / folder / "other.json").write_text("{}")
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.count("1 of 2 moved") == 2
    for second in ("a/fit.json", "."):
        assert compare.main([str(tmp_path / "a"), str(tmp_path / second)]) == 2
        assert "bench: " in capsys.readouterr().err


def test_compare_refuses_what_it_cannot_compare(tmp_path, capsys):
    first, other = written(tmp_path / "a.json", 1.0), written(tmp_path / "b.json", 1.0, case="m")
    (tmp_path / "text.json").write_text("[1]")
    for path, message in (
        (other, "no case in common"),
        ("missing.json", "cannot read"),
        ("text.json", "not the result"),
    ):
        assert compare.main([first, str(tmp_path / path)]) == 2
        assert message in capsys.readouterr().err


def test_operations_for_a_real_step_are_those_of_its_parts():
    config = preset("dhmbpo_small", flops.HOPPER_WORLD)  # 1 update of 256 rows, 13 rollouts of 20 steps for a real step
    found = flops.per_real_step(*flops.HOPPER, config)
    assert found["updates"] == 256 * flops.look_ahead_row(11, 3, config.model, config.agent, 5)
    assert found["rollouts"] == 13 * 20 * flops.model_step(11, 3, config.model, config.agent)
    minibatches = 20 * 256 * 5 * flops.model_fit(11, 3, config.model) / 500
    assert (found["fit, patience"], found["fit, most"]) == (6 * minibatches, 50 * minibatches)


def test_configs_of_the_measurements_are_valid():
    check(imagine.config_of(100_000, 5, propagation="mean"))
    assert imagine.config_of(10_000, 3).rollouts == 10_000
    for config in cost.epochs().values():
        check(config)


@pytest.mark.slow
def test_an_epoch_and_its_parts_can_be_measured(monkeypatch):
    def tiny(config):
        rollout = dataclasses.replace(config.rollout, per_step=4, groups=2)
        model, agent = (dataclasses.replace(part, hidden=(8,)) for part in (config.model, config.agent))
        config = dataclasses.replace(config, world="classic/lqr", explore_steps=20, epoch_steps=10, rollout=rollout)
        return built(dataclasses.replace(config, model=model, batch_size=4, agent=agent))

    monkeypatch.setattr(epoch, "built", tiny)
    parts = list(epoch.cases(full=False))
    assert [case.settings["part"] for case in parts] == ["epoch", "fit", "imagine", "collect", "improve"]
    for case in parts:
        jax.eval_shape(case.function, *case.arguments)


def small(rollouts, horizon, groups):
    """What imagines with tiny networks, and a state for it."""
    config = imagine.config_of(rollouts, horizon, members=3, elites=2, hidden=(16, 16))
    rollout = dataclasses.replace(config.rollout, groups=groups)
    return dataclasses.replace(config, agent=SACConfig(hidden=(16,)), rollout=rollout)


@pytest.mark.parametrize(("rollouts", "horizon", "groups"), [(1_000, 1, 1), (4_000, 5, 4), (1_000_000, 50, 500)])
def test_imagining_takes_products_in_exact_proportion_to_batch_and_horizon(rollouts, horizon, groups):
    config = small(rollouts, horizon, groups)
    step = flops.model_step(*HOPPER, config.model, config.agent)
    ends = flops.dense((16, 1))  # the head for ends is there in any case
    function, state = linear.imagined(config, shapes=True)
    assert count(function, state, jnp.int32(horizon)) == rollouts * horizon * (step + ends)


@pytest.mark.slow
def test_memory_follows_the_group_and_the_rows_that_are_stored():
    reserved = {n: linear.memory(small(250 * n, 5, n)) for n in (4, 16)}
    one, many = reserved[4]["temporary"], reserved[16]["temporary"]
    rows = reserved[16]["rows"] - reserved[4]["rows"]
    assert many - one < 5 * rows * reserved[4]["row"]
    whole = linear.memory(small(250 * 16, 5, 1))["temporary"]  # in a single group
    assert whole > many


@pytest.mark.slow
def test_imagining_is_compiled_once_as_the_horizon_moves_and_the_buffer_grows():
    function, state = linear.imagined(small(500, 5, 2))
    function = jax.jit(function)
    sizes, steps = [], []
    for horizon, rows in ((1, 600), (3, 5_000), (5, 10_000)):
        grown = state._replace(real=state.real._replace(size=jnp.int32(rows)))
        out = function(grown, jnp.int32(horizon))
        sizes.append(int(out.imagined.size))
        steps.append(int(out.counts.model_steps))
    assert sizes == steps == [500, 1_500, 2_500]
    assert function._cache_size() == 1


def test_the_cost_model_adds_up_and_knows_what_devices_can_shorten():
    does, machine = cost.HOPPER_WORK, cost.Machine()
    assert does.model_steps == 3_200 and does.updates == 20 and does.minibatches == pytest.approx(2.8)
    alone, eight = (cost.predict(does, machine, n, 1_000) for n in (1, 8))
    assert alone["imagine"] == pytest.approx(8 * eight["imagine"])
    assert alone["improve"] == pytest.approx(1_000 * 20 * machine.update)  # bound by latency there
    assert eight["improve"] - alone["improve"] == pytest.approx(1_000 * 20 * 5 * machine.near)
    slow = dataclasses.replace(machine, improve=1e9, update=0.0)
    assert cost.predict(does, slow, 1, 1_000)["improve"] == pytest.approx(1_000 * 20 * does.update_flops / 1e9)


def test_a_worker_prepares_once_and_answers_over_a_pipe(tmp_path):
    script = """
from benchmarks.peers.worker import Paused, serve

def loop(settings):
    seen = []
    def run(paused):
        for i in range(settings["to"]):
            print("noise on standard output")
            seen.append(i)
            paused.pause()
        raise ValueError("the loop is over")
    paused = Paused(run)
    return lambda: (paused.go(), {"seen": list(seen)})[1]

serve({"loop": loop}, {"versions": {}})
"""
    asked = [{"prepare": "loop", "settings": {"to": 2}}, *[{"once": "loop"}] * 3, {"once": "other"}]
    lines = "\n".join(map(json.dumps, asked))
    done = subprocess.run([sys.executable, "-c", script], input=lines, capture_output=True, text=True, check=True)
    about, ready, first, second, over, unknown = map(json.loads, done.stdout.splitlines())
    assert about == {"versions": {}} and ready["seconds"] >= 0
    assert first["seen"] == [0] and second["seen"] == [0, 1]
    assert "the loop is over" in over["error"] and "KeyError" in unknown["error"]


def test_the_floor_of_each_comparison_counts_what_it_does():
    from benchmarks.peers.__main__ import comparisons, floor

    each = comparisons()
    update = 256 * flops.sac_row(*HOPPER, SACConfig())
    for name in ("sac", "sb3_sac", "sbx_sac", "brax_sac"):
        assert floor("sac", each[name].settings, each[name].work, {}) == 50 * update
    loop = each["loop"]
    one, two = (floor("loop", loop.settings, loop.work, {"fit_sample_members": n}) for n in (1, 2))
    assert two - one == flops.model_fit(4, 1, ModelConfig())


class Library:
    """A worker whose calls take the seconds that it was given, one after the other."""

    about: typing.ClassVar = {"threads": 2, "versions": {"toy": "1"}}

    def __init__(self, *seconds):
        self.seconds = list(seconds)

    def ask(self, **request):
        if request.get("once") == "ceiling":
            return {"seconds": 1.0, "gflops": 100.0}
        if "once" in request:
            return {"seconds": self.seconds.pop(0), "fit_sample_members": 1_000, "return": 960.0, "env_steps": 250}
        return {"seconds": 0.0}


def test_a_comparison_is_the_median_over_turns_and_a_share_of_the_ceiling(capsys):
    from benchmarks.peers import __main__ as peers

    each = peers.comparisons()["loop"]
    row = peers.compare(Library(1.0, 2.0, 1.0), Library(2.0, 3.0, 4.0), each, rounds=3)
    assert row["ratios"] == [2.0, 1.5, 4.0] and row["ratio"] == 2.0 and row["ratio_of_sums"] == 9 / 4
    done = 3 * peers.floor("loop", each.settings, each.work, {"fit_sample_members": 1_000})
    assert row["branchax"]["of_matmul_ceiling"] == pytest.approx(done / 4 / 100e9)
    peers.show({"loop": row})
    assert "x2.00" in capsys.readouterr().out


def test_solved_is_three_evaluations_in_a_row_and_what_is_past_the_cap_is_given_up(monkeypatch):
    from benchmarks.peers import whole

    now = [0.0]
    monkeypatch.setattr(whole.time, "time", lambda: now[0])
    watch = whole.Watch(950.0, cap=100.0, started=-10.0)
    for steps, value in ((250, 1_000.0), (500, 949.0), (750, 950.0), (1_000, 951.0)):
        assert not watch.stop(steps, value)
    assert watch.stop(1_250, 1_000.0) and watch.solved and watch.evaluations[-1] == (1_250, 10.0, 1_000.0)
    slow = whole.Watch(950.0, cap=100.0, started=-10.0)
    now[0] = 91.0
    assert slow.stop(250, 1_000.0) and not slow.solved


def test_what_is_missing_of_the_runs_to_a_return_is_run_and_kept(tmp_path, monkeypatch, capsys):
    from benchmarks.peers import __main__ as peers
    from benchmarks.peers import solve

    asked = []

    def run(library, method, task, seed, cap, core):
        asked.append((library, method, seed))
        evaluations = [[100, 5.0, 900.0], *([100 * i, 30.0 + i, 960.0] for i in (2, 3, 4))]
        return {"solved": seed < 2, "evaluations": evaluations, "compile_s": 20.0 + seed, "cores": 1}

    monkeypatch.setattr(solve, "run", run)
    monkeypatch.setattr(solve, "RESULT", tmp_path / "solve.json")
    monkeypatch.setattr(solve.rundir, "environment", lambda: {"commit": "abc"})
    words = ["solve", "--task", "InvertedPendulum", "--method", "sbx SAC", "--method", "branchax mbpo", "--seeds"]
    for seeds in ("1", "3"):
        monkeypatch.setattr(peers.sys, "argv", ["peers", *words, seeds])
        peers.main()
    assert asked == [(*each, seed) for seed in (0, 1, 2) for each in (("branchax", "mbpo"), ("sbx", "SAC"))]
    found = json.loads((tmp_path / "solve.json").read_text())
    kept, ours = (found["runs"]["InvertedPendulum"][name] for name in ("sbx SAC", "branchax mbpo"))
    assert "†" not in capsys.readouterr().out
    ours["1"]["config"]["agent"]["tau"] = 0.5  # the preset was another one
    del ours["2"]["config"]
    (tmp_path / "solve.json").write_text(json.dumps(found))
    solve.show(solve.load())
    assert "†" in capsys.readouterr().out
    peers.main()
    assert asked[6:] == [("branchax", "mbpo", 1), ("branchax", "mbpo", 2)]
    assert kept["1"]["commit"] == "abc" and kept["1"]["cap"] == 600.0
    assert solve.summarise(kept) == {
        "solved": 2,
        "of": 3,
        "env_steps": 200,
        "seconds": 32.0,
        "seconds_range": [32.0, math.inf],
        "seconds_without_compiling": 12.0,
    }
    assert "2 of 3" in (said := capsys.readouterr().out) and "32 to > 600" in said

    def fail(*_):
        raise RuntimeError("it broke")

    monkeypatch.setattr(solve, "run", fail)
    with pytest.raises(SystemExit, match="2 runs failed"):  # the second one is tried all the same
        solve.main([*words[1:-1], "--seeds", "1", "--again"])


def test_each_race_to_a_return_has_a_cap_and_methods_whose_epochs_fit_between_evaluations():
    from benchmarks.peers import solve, whole

    assert set(solve.TASKS) == set(solve.CAPS) == set(whole.EVERY) == set(whole.STEPS)
    for task in solve.TASKS:
        methods = solve.methods_of(task)
        assert {"branchax", "sbx"} <= {library for library, _ in methods}
        for method in (method for library, method in methods if library == "branchax"):
            config = whole.config_of(method, task, 3)
            check(config)
            assert config.eval_every * config.epoch_steps == whole.EVERY[task]
    assert ("branchax", "dhmbpo_small") in solve.methods_of("Hopper") and ("mbrl-lib", "MBPO") not in methods


def test_the_arms_of_a_fit_differ_and_are_measured_on_rows_that_come_after(monkeypatch):
    models = [with_fields(PRESETS["mbpo"].model, changes) for changes in fit_error.ARMS.values()]
    assert len(set(models)) == len(models)
    for name, value in {"FIRST": 20, "LAST": 40, "EVERY": 10}.items():
        monkeypatch.setattr(fit_error, name, value)
    rng = np.random.default_rng(0)
    f = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    never = np.zeros(60, bool)
    rows = Transition(f(60, 11), np.tanh(f(60, 3)), f(60), f(60, 11), never, never)
    small = ModelConfig(members=2, elites=1, hidden=(4,), round_steps=2, max_rounds=3, batch_size=8)
    found = fit_error.measure(small, rows)
    assert found["minibatches"] == [6.0, 0.0] and found["error_next"][0] > 0.5  # nothing can be learned
    assert 0.0 <= found["coverage_90_next"][0] <= 1.0 and math.isfinite(found["nll_next"][0])


def test_the_table_of_starts_has_each_part_beside_the_whole():
    settings = {"preset": "sac", "world": "classic/lqr"}
    rows = [
        {"settings": settings | {"cache": cache, "part": part}, "cpu_s": cpu, "wall_s": cpu, "programs": 2}
        for cache, seconds in (("cold", (1.0, 3.0)), ("cached", (1.0, 0.0)))
        for part, cpu in zip(("import", "epoch: compile"), seconds, strict=True)
    ]
    assert start.table(rows) == [
        ("sac on classic/lqr", "import", "1.0 s  25%", "1.0 s 100%", "2"),
        ("sac on classic/lqr", "epoch: compile", "3.0 s  75%", "0.0 s   0%", "2"),
        ("sac on classic/lqr", "all", "4.0 s", "1.0 s", "4"),
    ]


def test_programs_that_are_compiled_side_by_side_count_once():
    from benchmarks.peers import whole

    watch = whole.Watch(950.0, 100.0, 0.0)
    watch.compiling = [(5.0, 6.0), (1.0, 3.0), (2.0, 4.0), (2.5, 3.0)]
    assert watch.compile_s == 4.0


def test_the_committed_comparisons_can_be_shown(capsys):
    from benchmarks.peers import __main__ as peers

    peers.show(json.loads(peers.RESULT.read_text())["rows"])
    assert "mbrl-lib" in capsys.readouterr().out


def test_time_is_shared_out_by_kind_and_counted_once():
    from benchmarks import limits

    def function(w, x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w) + x.T, None), x, length=3)[0]

    x = jnp.ones((64, 64))
    kinds = limits.operations(jax.jit(function).lower(x, x).compile().as_text())
    assert {kind for kind, _ in kinds.values()} >= {"products", "elementwise", "loops"}
    assert any(kind == "products" and moved == 3 * 64 * 64 * 4 for kind, moved in kinds.values())
    event = lambda name, ts, dur, tid=0: {"name": name, "ts": ts, "dur": dur, "pid": 0, "tid": tid}  # noqa: E731
    events = [event("dot", 1e6, 2e6), event("while", 0, 6e6), event("add", 4e6, 1e6), event("dot", 2e6, 5e6, tid=1)]
    assert limits.own_seconds(events) == {"while": 3.0, "dot": 7.0, "add": 1.0}


def test_a_newcomer_s_step_has_to_do_what_is_expected(tmp_path):
    step = newcomer.Step("python -c \"open('made', 'w'); print('done')\"", makes="made", says="done")
    assert newcomer.walk(step, tmp_path) >= 0
    for change, why in (
        ({"makes": "other"}, "no other"),
        ({"says": "more"}, "does not say"),
        ({"code": 1}, "exit code"),
    ):
        with pytest.raises(AssertionError, match=why):
            newcomer.walk(step._replace(**change), tmp_path)


def test_a_newcomer_s_ctrl_c_comes_after_the_evaluations_that_were_asked_for(tmp_path):
    row = "        250        1     -1629.7 ± 120.4             200       0.0123     0:05"
    text = f"""import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python has it, unless it was started in the background
try:
    for number in range(99):
        print({row!r}, flush=True)
        time.sleep(0.2)
except KeyboardInterrupt:
    print("well")
    exit(75)
"""
    (tmp_path / "script.py").write_text(text)
    step = newcomer.Step("python script.py", interrupt=2, code=75, says="well")
    newcomer.walk(step, tmp_path)  # to its end it would take another way out
