"""Our curves beside published ones: what is read, compared, drawn and listed; a real run that is killed and goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from branchax import checks
from branchax.config import flat
from branchax.config.fields import with_fields
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.runs import rundir, runlog
from branchax.runs.signals import Preempted
from experiments import gpu_queue
from experiments.harness import read_results
from experiments.published import __main__ as command
from experiments.published import check, curves, draw, plan, runs, table
from experiments.published.curves import DONE, MISSING, PARTIAL, Curve, Found, Ours
from experiments.published.plan import Arm
from experiments.variants import VARIANTS, changes_of

ROOT = Path(__file__).parents[1]
ARM = Arm("Hopper", "sac", 3, 20_000)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(arm, first, count, reached, folder=plan.RUNS, slope=0.01, step=1_000):
    """A run's directory with evaluations every `step` steps, whose returns rise with the seed's number."""
    directory = plan.directory_of(arm, first, count, folder)
    config = plan.config_of(arm, first, count)
    rundir.write_json(directory / rundir.CONFIG, json.loads(json.dumps(plan_dict(config))))
    made = {"commit": "abc", "device": "cpu: cpu", "jax": "0.11"}
    rundir.write_json(directory / rundir.ENVIRONMENT, made)
    rows = [
        {"seed": seed, "epoch": i, "env_steps": at, "wall_s": at / 10, "updates": at, runlog.RETURN: slope * at + seed}
        for i, at in enumerate(range(step, reached + 1, step))
        for seed in range(first, first + count)
    ]
    (directory / rundir.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def plan_dict(config):
    from branchax.config import to_dict

    return to_dict(config)


def arm_of(seeds, steps=(1_000, 2_000, 3_000), asked=3_000, method="sac"):
    """What was collected of seeds with these returns [T]."""
    each = {100 + i: Curve(np.array(steps), np.array(r, float), np.array(steps) / 10) for i, r in enumerate(seeds)}
    return Ours(method, method, each, asked, "CPU")


# --- settings ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_run_that_differs_in_what_it_says(variant):
    """Of one double horizon or another: what is a variant of one may be another as it is."""
    differ, said = set(), set()
    for name in ("dhmbpo_small", "dhmbpo_tiny"):
        plain, changed = (plan.config_of(Arm("Hopper", method)) for method in (name, f"{name}+{variant}"))
        checks.check(changed)
        said |= set(changes_of(variant, plain))
        plain, changed = flat(plan_dict(plain)), flat(plan_dict(changed))
        differ |= {field for field in plain if plain[field] != changed[field]}
    assert differ == said


def test_a_run_has_the_preset_s_settings_but_for_its_length_and_how_it_is_watched():
    config = plan.config_of(Arm("Hopper", "mbpo", 3, 7_000), 100, 2, every=1_000)
    base = preset("mbpo", "gym/Hopper-v5")
    assert (config.world, config.env_steps, config.seed, config.seeds) == ("gym/Hopper-v5", 7_000, 100, 2)
    assert config.eval_every * config.epoch_steps == 1_000 and config.eval_episodes == plan.EPISODES
    assert config.explore_steps == base.explore_steps and config.model == base.model
    assert (
        plan.config_of(Arm("Hopper", "sac+tf32")).precision
        == "default"
        != plan.config_of(Arm("Hopper", "sac")).precision
    )


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (Arm("Hoper", "sac"), "task: 'Hoper' is unknown .did you mean Hopper"),
        (Arm("Hopper", "mbop"), "preset: 'mbop' is unknown"),
        (Arm("Hopper", "sac+tf23"), "'tf23' is no variant .did you mean tf32"),
    ],
)
def test_what_does_not_exist_is_named(arm, message, capsys):
    with pytest.raises(ConfigError, match=message):
        plan.config_of(arm)
    assert command.main(["--task", arm.task, "--preset", arm.method, "--list"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_every_planned_method_is_a_preset_or_said_not_to_be():
    for arm in (*plan.PLAN, *(item.arm for item in gpu_queue.ITEMS)):
        if command.possible(arm):
            plan.config_of(arm)
    assert all(arm.task in plan.TASKS for arm in plan.PLAN)


# --- published figures ---


def test_published_curves_are_read_with_their_sources():
    hopper = curves.published("Hopper")
    assert set(hopper) == {"DHMBPO", "MBPO", "MACURA", "SAC", "CrossQ", "XQC"}
    assert hopper["DHMBPO"].mean[hopper["DHMBPO"].steps == 50_000] == pytest.approx(3469.7)
    assert hopper["DHMBPO"].seeds == 8 and not np.isnan(hopper["DHMBPO"].sd).any()
    assert np.isnan(hopper["XQC"].wall_s).all() and curves.published("InvertedPendulum") == {}
    readme = (curves.DATA / "README.md").read_text()
    assert all(path.name in readme for path in curves.DATA.glob("*.csv"))


def test_ant_and_humanoid_are_seen_without_forces_and_inertias():
    from branchax.worlds import make

    for task, size in (("Ant", 27), ("Humanoid", 45)):
        config = plan.config_of(Arm(task, "dhmbpo"))
        assert make(config.world, arguments=config.world_args).spec.obs_size == size


def test_mbpo_has_no_spread_because_its_source_has_no_seeds():
    for task in ("Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid"):
        mbpo = curves.published(task)["MBPO"]
        assert np.isnan(mbpo.sd).all() and mbpo.seeds is None and not np.isnan(mbpo.mean).any()


def test_the_published_middle_of_hopper_is_the_third_of_five_rows():
    from experiments.gymnasium_tasks import PUBLISHED

    low, middle, high = np.array(list(PUBLISHED["gym/Hopper-v5"].values())).T
    np.testing.assert_allclose(middle, (low + high) / 2, atol=0.11)
    assert middle[-1] == 529.6


# --- collecting ---


def test_runs_are_collected_as_far_as_they_are_and_the_longer_curve_stays(here):
    make_run(ARM, 100, 1, 20_000)
    make_run(ARM, 101, 1, 5_000)
    make_run(ARM, 3, 1, 20_000)  # of development
    path = curves.collect(ARM, "published --seeds {seeds} --steps {steps}", curves.path_of(ARM))
    data = read_results(path)
    assert list(data["seeds"]) == ["100", "101"] and not data["complete"]
    assert [data["seeds"][s]["complete"] for s in ("100", "101")] == [True, False]
    assert data["made"]["command"] == "python -m experiments.published --seeds 2 --steps 20000"
    assert data["runs"]["Hopper_sac_s100"]["device"] == "cpu: cpu"
    make_run(ARM, 101, 1, 2_000)  # begun again elsewhere, and shorter
    make_run(ARM, 102, 1, 1_000)
    for directory in plan.RUNS.glob("*s100"):
        (directory / rundir.CONFIG).unlink()  # the run is gone: what was collected of it stays
    data = read_results(curves.collect(ARM, "published", path))
    assert [x["env_steps"][-1] for x in data["seeds"].values()] == [20_000, 5_000, 1_000]
    assert set(data["runs"]) == {"Hopper_sac_s100", "Hopper_sac_s101", "Hopper_sac_s102"}


def test_curves_of_other_settings_are_not_mixed(here):
    make_run(ARM, 100, 1, 5_000)
    path = curves.collect(ARM, "published", curves.path_of(ARM))
    data = read_results(path)
    data["configs"]["sac"]["agent"]["tau"] = 0.5
    rundir.write_json(path, data)
    make_run(ARM, 101, 1, 5_000)
    with pytest.raises(ConfigError, match=r"made with other settings: agent.tau 0.5 -> 0.005; move it away"):
        curves.collect(ARM, "published", path)
    flags = ["--task", "Hopper", "--preset", "sac", "--seeds", "3", "--steps", "20000"]
    assert command.main(flags) == 2  # before anything is run


def test_what_an_older_preset_learned_is_stale_and_not_done(here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(command, "PLAN", (ARM,))
    make_run(ARM, 100, 1, 20_000)
    path = curves.collect(ARM, "published", curves.path_of(ARM))
    data = read_results(path)
    data["configs"]["sac"]["agent"]["tau"] = 0.5
    rundir.write_json(path, data)
    assert command.states(ARM) == {100: ("stale", 20_000)}
    monkeypatch.setattr(command.pages, "collect", lambda again: None)
    assert command.main([]) == 0  # the whole plan goes past it
    said = capsys.readouterr().out
    assert "stale at 20,000" in said and "agent.tau 0.5 -> 0.005" in said and "move it" in said
    (ours,) = curves.ours("Hopper")
    assert ours.earlier and table.EARLIER in table.of_task("Hopper", [ours], {})


def test_what_was_run_elsewhere_is_run_again_when_asked(here, capsys):
    directory = make_run(ARM, 100, 1, 20_000)
    path = curves.collect(ARM, "published", curves.path_of(ARM))
    shutil.rmtree(directory)
    assert command.states(ARM)[100] == (DONE, 20_000)
    assert command.states(ARM, again=True)[100] == (MISSING, 0)
    before = path.read_bytes()
    make_run(ARM, 100, 1, 20_000)
    assert curves.collect(ARM, "published", path, again=True) and path.read_bytes() == before  # the same curve
    make_run(ARM, 100, 1, 20_000, slope=0.02)
    last = lambda: read_results(path)["seeds"]["100"]["return"][-1]  # noqa: E731
    assert curves.collect(ARM, "published", path) and last() == 300.0
    assert curves.collect(ARM, "published", path, again=True) and last() == 500.0  # as long: the one at hand
    assert command.states(ARM, again=True)[100] == (DONE, 20_000)
    make_run(ARM, 100, 1, 10_000, slope=0.02)
    curves.collect(ARM, "published", path, again=True)
    assert last() == 500.0 and "keeps a longer curve of seed 100" in capsys.readouterr().out


def test_the_command_runs_again_what_was_run_elsewhere(here, capsys, monkeypatch):
    make_run(ARM, 100, 3, 20_000)
    curves.collect(ARM, "published", curves.path_of(ARM))
    shutil.rmtree(plan.RUNS)
    done: list = []
    monkeypatch.setattr(command.runs, "run_processes", lambda arm, parts, jobs, every: done.append(parts) or 0)
    monkeypatch.setattr(command.pages, "collect", done.append)
    flags = ["--task", "Hopper", "--preset", "sac", "--seeds", "3", "--steps", "20000"]
    assert command.main(flags) == 0 and done == [False]
    assert "--again trains it here" in capsys.readouterr().out
    assert command.main([*flags, "--again"]) == 0
    assert done == [False, [(100, 1), (101, 1), (102, 1)], True]


def test_a_setting_that_is_new_and_not_at_its_default_makes_a_difference(here):
    path = curves.collect(ARM, "published", make_run(ARM, 100, 1, 5_000) and curves.path_of(ARM))
    data, config = read_results(path), plan.config_of(ARM)
    del data["configs"]["sac"]["agent"]["init_std"]  # as if it had not been there
    rundir.write_json(path, data)
    assert not curves.differences(ARM, path, config)
    from branchax.config import with_field

    assert curves.differences(ARM, path, with_field(config, "agent.init_std", 0.1)) == ["agent.init_std 0.5 -> 0.1"]


def test_what_is_left_goes_on_as_it_was_begun(here):
    make_run(ARM, 100, 1, 20_000)
    make_run(ARM, 101, 2, 4_000)
    there = curves.found(ARM)
    assert there[1] == Found(plan.RUNS / "Hopper_sac_s101-102", 101, 2, 4_000, False)
    states = {seed: curves.state_of(ARM, seed, there, {})[0] for seed in range(100, 105)}
    assert list(states.values()) == [DONE, PARTIAL, PARTIAL, MISSING, MISSING]
    assert runs.missing(states, there, side_by_side=True) == [(101, 2), (103, 2)]
    assert runs.missing(states, there, side_by_side=False) == [(101, 2), (103, 1), (104, 1)]
    kept = {"seeds": {"103": {"env_steps": [20_000]}}}  # committed, its run elsewhere
    assert curves.state_of(ARM, 103, there, kept) == (DONE, 20_000)
    assert curves.state_of(ARM._replace(steps=30_000), 100, there, kept) == (PARTIAL, 20_000)


def test_the_list_says_how_far_each_seed_is(here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    make_run(ARM, 100, 1, 20_000)
    make_run(ARM, 101, 1, 4_000)
    flags = ["--task", "Hopper", "--preset", "sac", "--seeds", "3", "--steps", "20000", "--list"]
    assert command.main(flags) == 0
    assert "done, partial at 4,000, missing" in capsys.readouterr().out
    assert command.main(["--list", "--seeds", "3"]) == 2  # of the whole plan


# --- tables and figures ---


def test_returns_are_read_off_at_a_step_and_never_extrapolated():
    curve = Curve(np.array([1_000, 3_000]), np.array([10.0, 30.0]), np.array([5.0, 9.0]))
    assert curves.at(curve, 2_000) == 20 and curves.at(curve, 3_000) == 30 and curves.at(curve, 2_000, "wall_s") == 7
    assert np.isnan(curves.at(curve, 3_001)) and np.isnan(curves.at(curve, 999))


def test_the_table_has_means_deviations_how_many_seeds_and_the_ratio_of_clocks():
    steps = (5_000, 10_000, 20_000)
    ours = arm_of([(0, 100, 300), (0, 300, 500)], steps, 20_000, "dhmbpo")
    ours.seeds[102] = Curve(np.array([5_000, 10_000]), np.array([0.0, 200.0]), np.array([500.0, 1_000.0]))
    lines = table.of_task("Hopper", [ours], curves.published("Hopper")).splitlines()
    assert lines[0].startswith("| return after | seeds | 10k | 20k | 30k | 50k |")
    assert "| **`dhmbpo`** (so far, to 10,000 of 20,000) | 3 | 200 ± 100 | 400 ± 141 (2) |  |" in lines[2]
    assert "| DHMBPO | 8 | 595 ± 347 | 2,101 ± 1,102 |" in lines[3] or any("595 ± 347" in x for x in lines)
    assert any(line.startswith("| MBPO | – | 247 | 497 |") for line in lines)
    clock = next(line for line in lines if line.startswith("| **`dhmbpo`**") and "CPU" in line)
    assert f"1,000 (× {1000 / 239:.2f})" in clock
    assert not any(line.startswith("| XQC") for line in lines[lines.index("") :])  # logs no clock


def test_pages_are_filled_in_and_the_rest_of_them_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{table.BEGIN}\nold\n{table.END}\n\nafter\n")
    here = table.write({"Hopper": "| a \\1 |\n"}, tmp_path, page)
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert "![Hopper](../results/published/Hopper.png)" in text and "| a \\1 |" in text
    assert "![Hopper](Hopper.png)" in here.read_text()
    table.write({}, tmp_path, page)
    assert "Nothing has been run yet" in page.read_text()


def test_the_documentation_s_page_is_what_the_results_say():
    """As `make published ARGS=--collect` writes it."""
    tables = {
        task: table.of_task(task, arms, curves.published(task)) for task in plan.TASKS if (arms := curves.ours(task))
    }
    text = (ROOT / table.PAGE).read_text()
    assert all(each in text and each in (ROOT / plan.RESULTS / "README.md").read_text() for each in tables.values())


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_a_figure_is_drawn_of_any_number_of_seeds(tmp_path, seeds):
    each = [(10 * i, 20 + i, 30) for i in range(seeds)]
    arms = [arm_of(each, asked=50_000, method="dhmbpo"), arm_of(each, method="svg"), arm_of([(1,)], (500,), 500)]
    draw.draw("Hopper", arms, curves.published("Hopper"), tmp_path / "Hopper.png")
    assert (tmp_path / "Hopper.png").stat().st_size > 10_000
    assert draw.colour_of("dhmbpo", []) == draw.colour_of("DHMBPO", []) != draw.colour_of("svg", ["svg"])


# --- the check ---


@pytest.mark.parametrize(("got", "within"), [((0, 95, 105), True), ((0, 0, 0), False)])
def test_a_fresh_seed_is_within_the_spread_or_not(got, within):
    committed = arm_of([(0, 90, 100), (0, 100, 110), (0, 95, 105)])
    fresh = Curve(np.array([1_000, 2_000, 3_000]), np.array(got, float), np.zeros(3))
    assert check.judge(fresh, committed).within is within


def test_seeds_that_all_agree_leave_some_room():
    committed = arm_of([(0, 1_000, 1_000)] * 3)
    at = lambda last: Curve(np.array([1_000, 2_000, 3_000]), np.array([0, 1_000, last], float), np.zeros(3))  # noqa: E731
    assert check.judge(at(900), committed).within and not check.judge(at(700), committed).within


def test_seeds_far_apart_decide_nothing_and_none_is_run_for_them(here, capsys, monkeypatch):
    """Three seeds of which one has not learned yet: their interval holds what an untrained policy gets."""
    apart = check.judge(arm_of([(0, 1, 2)]).seeds[100], arm_of([(0, 0, 0), (0, 900, 900), (0, 900, 900)]))
    assert apart.within and not apart.decides
    assert check.judge(arm_of([(0, 1, 2)]).seeds[100], arm_of([(0, 800, 900), (0, 900, 900), (0, 900, 800)])).decides
    for seed, slope in ((100, 0.0), (101, 0.1), (102, 0.1)):
        make_run(ARM, seed, 1, 20_000, slope=slope)
    curves.collect(ARM, "published", curves.path_of(ARM))
    monkeypatch.setattr(check, "train_seeds", lambda *a, **k: pytest.fail("it was run"))
    assert command.main(["--check", "--task", "Hopper", "--preset", "sac", "--steps", "20000"]) == 2
    said = capsys.readouterr()
    assert "holds an untrained policy's return" in said.out and "decides anything" in said.err


def test_a_check_against_an_older_preset_fails_and_says_what_changed(here, capsys, monkeypatch):
    for seed in (100, 101, 102):
        make_run(ARM, seed, 1, 20_000)
    path = curves.collect(ARM, "published", curves.path_of(ARM))
    flags = ["--check", "--task", "Hopper", "--preset", "sac", "--steps", "20000"]
    fresh = lambda arm, seed, folder: make_run(arm, seed, 1, arm.env_steps, folder, slope=0.0153)  # noqa: E731
    monkeypatch.setattr(check, "train_seeds", fresh)
    assert command.main(flags) == 0 and "within" in capsys.readouterr().out
    data = read_results(path)
    data["configs"]["sac"]["agent"]["tau"] = 0.5
    rundir.write_json(path, data)
    assert command.main(flags) == 1 and "FAILED" in (said := capsys.readouterr().out) and "agent.tau 0.5" in said


def test_the_checks_of_the_cheap_ones_decide(monkeypatch):
    """As the committed curves have it: of a seed that learns nothing each of them would say so."""
    monkeypatch.chdir(ROOT)
    for arm in check.CHECKS:
        committed = curves.collected(curves.path_of(arm))
        seed = check.as_far_as(committed.seeds[100], arm.env_steps)
        assert check.judge(seed, committed).decides, arm
        nothing = seed._replace(returns=np.full_like(seed.returns, seed.returns[0]))
        assert not check.judge(nothing, committed).within


def test_too_few_seeds_are_no_spread():
    with pytest.raises(ConfigError, match="2 committed seeds of sac at 3,000; needed: 3"):
        check.judge(arm_of([(0, 1, 2)]).seeds[100], arm_of([(0, 1, 2)] * 2))


def test_a_check_with_nothing_to_compare_with_is_refused(here, capsys):
    assert command.main(["--check"]) == 2
    assert "no committed curve that decides anything" in capsys.readouterr().err


# --- the queue for an accelerator ---


def test_the_time_limit_is_a_signal_that_a_run_hears():
    with pytest.raises(Preempted, match="the time is up"), runs.limited(0.002):
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.fixture
def queue(here, monkeypatch):
    """A queue of two items with a preset that is there."""
    items = (
        gpu_queue.Item("rate_sac", "rates", Arm("Hopper", "sac"), (1, 2)),
        gpu_queue.Item("hopper_sac", "a curve", ARM),
        gpu_queue.Item("other", "no preset", Arm("Hopper", "nothing_like_it")),
    )
    monkeypatch.setattr(gpu_queue, "ITEMS", items)
    return items


def test_the_queue_says_what_is_done_and_how_long_the_rest_takes(queue, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rate, curve, _ = queue
    assert [gpu_queue.state_of(item) for item in queue] == [MISSING, MISSING, "there is no preset nothing_like_it yet"]
    for count in (1, 2, 3):
        make_run(rate.arm, 100, count, 5_000, gpu_queue.folder_of(rate))
        assert gpu_queue.state_of(rate) == (PARTIAL if count < 3 else DONE)
        gpu_queue.collect(rate)
    found = read_results(gpu_queue.path_of(rate))["seeds_at_once"]
    assert found["2"]["updates_per_s"] == 2 * found["1"]["updates_per_s"] == pytest.approx(20)
    assert found["3"]["seconds_per_1000_env_steps"] == pytest.approx(100)
    assert gpu_queue.calls_of(curve, minutes=10) == "about 5 of 10 minutes"  # 20 x 100 s in calls of 400 s and more
    make_run(ARM, 100, 3, 4_000, gpu_queue.folder_of(curve))
    gpu_queue.collect(curve)
    assert gpu_queue.state_of(curve) == PARTIAL and gpu_queue.main(["--list"]) == 0
    assert "4,000" in capsys.readouterr().out
    make_run(ARM, 100, 3, 20_000, gpu_queue.folder_of(curve))
    gpu_queue.collect(curve)
    assert gpu_queue.state_of(curve) == DONE
    assert {state for state, _ in command.states(ARM).values()} == {DONE}  # a CPU need not run them again
    changed = with_fields(plan.config_of(ARM), {"agent.tau": 0.5})
    monkeypatch.setattr(plan, "config_of", lambda arm, *_: changed)
    assert [gpu_queue.state_of(item) for item in (rate, curve)] == [curves.STALE, curves.STALE]
    assert {state for state, _ in command.states(ARM).values()} == {MISSING}  # what is there is of another preset
    (arm,) = curves.ours("Hopper")
    assert arm.where == "CPU, 3 seeds at once" and arm.reached == 20_000


def test_of_a_seed_in_both_files_the_longer_curve_counts(here):
    seeds = {"100": {"env_steps": [1_000]}, "101": {"env_steps": [1_000, 2_000]}}
    others = {"100": {"env_steps": [1_000, 3_000]}, "101": {"env_steps": [1_000]}, "102": {"env_steps": [500]}}
    rundir.write_json(curves.path_of(ARM), {"seeds": seeds})
    rundir.write_json(curves.GPU_RESULTS / "item.json", {"task": "Hopper", "method": "sac", "seeds": others})
    rundir.write_json(curves.GPU_RESULTS / "other.json", {"task": "Hopper", "method": "mbpo", "seeds": seeds})
    kept = curves.kept_of(ARM, plan.config_of(ARM))["seeds"]
    assert {seed: entry["env_steps"][-1] for seed, entry in kept.items()} == {"100": 3_000, "101": 2_000, "102": 500}


@pytest.mark.parametrize(("given", "seeds", "found"), [(None, 1, 0), (None, 10_000, None), (0, 8, 0), (3, 8, 3)])
def test_environments_are_stepped_in_one_process_for_each_core_but_no_more_than_seeds(given, seeds, found):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    expected = (0 if cores == 1 else cores) if found is None else found
    assert gpu_queue.workers_for(seeds, given) == expected


def test_the_queue_refuses_a_cpu_and_unknown_items(queue, capsys):
    assert gpu_queue.main([]) == 2 and "--here" in capsys.readouterr().err
    assert gpu_queue.main(["--item", "hoper_sac"]) == 2 and "did you mean hopper_sac" in capsys.readouterr().err


def test_an_item_is_preempted_and_what_it_has_is_written(queue, monkeypatch, capsys):
    def train_until_stopped(arm, first, count, every, folder, saved, workers):
        assert workers == 3
        make_run(arm, first, count, 4_000, folder)
        time.sleep(20)

    monkeypatch.setattr(gpu_queue.runs, "train_seeds", train_until_stopped)
    flags = ["--here", "--item", "hopper_sac", "--minutes", "0.02", "--workers", "3"]
    assert gpu_queue.main(flags) == 0
    assert "goes on" in capsys.readouterr().out
    assert read_results(gpu_queue.path_of(queue[1]))["seeds"]["102"]["env_steps"][-1] == 4_000
    assert (plan.RESULTS / "Hopper.png").exists()


# --- a real run ---


@pytest.mark.slow
def test_seeds_that_are_killed_go_on_to_the_same_numbers(tmp_path):
    """Two seeds of `sac` on InvertedPendulum: asked to end, then killed, then to the end; and left alone."""
    words = [sys.executable, "-m", "experiments.published", "--task", "InvertedPendulum", "--preset", "sac"]
    words += ["--steps", "750", "--seeds", "2"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}

    def start(folder):
        folder.mkdir(exist_ok=True)
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL)

    def rows_of(folder, seed):
        rows = runlog.read(folder / plan.RUNS / f"InvertedPendulum_sac_s{seed}" / rundir.METRICS)
        return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows]

    def wait_for(condition):
        end = time.monotonic() + 300
        while not condition() and time.monotonic() < end:
            time.sleep(0.1)

    left, stopped = tmp_path / "left", tmp_path / "stopped"
    process = start(left)
    assert process.wait(600) == 0
    process = start(stopped)
    wait_for(lambda: rows_of(stopped, 100))
    process.terminate()
    assert process.wait(120) == 75 and len(rows_of(stopped, 100)) < 3
    process = start(stopped)
    wait_for(lambda: rows_of(stopped, 101))
    os.kill(rundir.status(stopped / plan.RUNS / "InvertedPendulum_sac_s101")["pid"], signal.SIGKILL)
    assert process.wait(120) == 1 and len(rows_of(stopped, 101)) < 3
    process = start(stopped)
    assert process.wait(600) == 0
    for seed in (100, 101):
        assert rows_of(left, seed) == rows_of(stopped, seed) and len(rows_of(left, seed)) >= 3
    data = read_results(stopped / plan.RESULTS / "InvertedPendulum_sac.json")
    assert data["complete"] and list(data["seeds"]) == ["100", "101"]
    assert (stopped / plan.RESULTS / "InvertedPendulum.png").exists()


def test_the_returns_on_hopper_in_the_texts_are_those_of_the_results():
    """And the means of each seed's last five evaluations, at the end and up to 30,000 steps."""
    said, marks = [], (10_000, 20_000, 30_000, 50_000)
    readme, page = (" ".join((ROOT / file).read_text().split()) for file in ("README.md", table.PAGE))
    for method in ("mbpo", "dhmbpo_small", "sac"):
        ours = curves.collected(curves.path_of(Arm("Hopper", method), ROOT / plan.RESULTS))
        last = [
            np.array([curve.returns[curve.steps <= until][-5:].mean() for curve in ours.seeds.values()])
            for until in (30_000, np.inf)
        ]
        early, *cells = (
            f"{values.mean():,.0f} ± {values.std(ddof=1):,.0f}"
            for values in (last[0], *(curves.all_at(ours, mark) for mark in marks), last[1])
        )
        said.append(early)
        assert f"| **`{method}`** | {' | '.join(cells)} |" in readme
    for method in ("DHMBPO", "MACURA", "MBPO", "SAC"):
        curve = curves.published("Hopper")[method]
        cells = [f"{curve.mean[curve.steps == mark][0]:,.0f}" for mark in marks]
        assert f"| {method}, published | {' | '.join(cells)} | |" in readme
    assert f"have a mean of {said[2]} (`dhmbpo_small`: {said[1]}; `mbpo`: {said[0]})" in page
