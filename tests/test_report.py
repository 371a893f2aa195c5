"""The page is complete in itself, and a browser, where there is one, draws it without an error."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image
from test_plots import MBPO, make_run

from branchax import cli
from branchax.presets import preset
from branchax.runs import rundir, runlog
from branchax.views import diagnose, model, report

SMALL = """
    --world classic/pendulum --env-steps 100 --explore-steps 60 --epoch-steps 40 --batch-size 16 --updates-per-step 1
    --model.members 3 --model.elites 2 --model.hidden 8 --model.round-steps 5 --model.max-rounds 3 --eval-episodes 16
    --rollout.per-step 6 --rollout.groups 2 --agent.hidden 8
"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """What a page refers to, and what it carries."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.data, self.inside = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[name] for name in ("src", "href", "data", "poster") if name in attrs]
        self.inside = attrs.get("id")

    def handle_data(self, data):
        if self.inside == "data":
            self.data += data

    def handle_endtag(self, tag):
        self.inside = None


def opened(path):
    """The page's DOM after its scripts, and what it wrote to the console, by a browser that reaches no network."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]
    command = [BROWSER, *options, *offline, "--dump-dom", path.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_is_complete_and_carries_what_was_logged(tmp_path):
    runs = [
        make_run(tmp_path / "mbpo", seeds=(0, 1)),
        make_run(tmp_path / "sac", preset("sac", "classic/lqr")),
    ]
    (runs[0] / rundir.COMMAND).write_text("branchax train </script><b>")
    rundir.write_json(
        runs[0] / rundir.EVALUATIONS / "750.json", [{"seed": 1, "env_steps": 750, "episodes": 100, runlog.RETURN: 9.5}]
    )
    report.report(
        runs,
        tmp_path / "report.html",
    )
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.links == ["data:,"] and not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert page.tags.count("script") == 2
    assert "b" not in page.tags  # nothing that a run says ends the element that holds it
    data = json.loads(page.data)
    assert [run["name"] for run in data["runs"]] == ["mbpo", "sac"]
    summary = [(run["name"], run["steps"], run["return"], run["time"]) for run in data["summary"]]
    assert summary == [("mbpo", 750, 30.5, "0:31"), ("sac", 750, 30.0, "0:30")]
    assert [run["differs"] for run in data["summary"]] == ["sac with a model", "sac without a model"]
    assert data["names"][runlog.RETURN] == "return of an episode" and data["names"]["wall_s"].startswith("seconds")
    line = data["curves"][0]["metrics"][runlog.RETURN]["steps"]
    assert (line["x"], line["middle"], len(line["seeds"])) == ([0, 250, 750], [0.5, 10.5, 30.5], 2)
    assert data["curves"][1]["metrics"][runlog.RETURN]["seconds"]["x"] == [0, 10, 30]
    shown = [(e["seed"], e["steps"], e["episodes"], e["mean"]) for e in data["runs"][0]["evaluations"]]
    assert shown == [(0, 750, MBPO.eval_episodes, 30.0), (1, 750, MBPO.eval_episodes, 31.0), (1, 750, 100, 9.5)]


@pytest.mark.slow
@pytest.mark.drawn
def test_one_run_looked_at_by_every_command(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", "mbpo", *SMALL.split(), "--run", str(run)]) == 0
    last = runlog.read(run / rundir.METRICS)[-1]
    capsys.readouterr()

    assert cli.main(["diagnose", str(run)]) == 0
    said, aside = capsys.readouterr()
    assert f"{run}: measuring" in aside  # which takes a while
    assert "open loop" in said and str(run / "plots") in said
    path = diagnose.path_of(run, 100, 0)
    found = json.loads(path.read_text())
    # Its 16 episodes are those of the run's own last evaluation, played again.
    assert sum(found["returns"]["real"]) / 16 == pytest.approx(last[runlog.RETURN], rel=1e-4)
    assert len(found["returns"]["imagined"]) == 2 and len(found["critic"]["actual"]) == model.ROWS
    assert {len(e[side]["total"]) for e in found["player"]["episodes"] for side in ("real", "imagined")} == {200}

    phases = dict(zip(found["phases"]["names"], found["phases"]["seconds"], strict=True))
    assert list(phases) == ["collect", "fit", "imagine", "improve", "evaluate", "save"] and min(phases.values()) > 0
    assert all(name in said for name in phases)

    stamp = path.stat().st_mtime_ns
    assert cli.main(["plot", str(run), "--diagnose"]) == 0
    said, aside = capsys.readouterr()
    assert aside == "drawing the curves of 1 run\nrun 1 of 1\n"  # it was kept
    written = {line.rpartition("/")[2] for line in said.splitlines()}
    names = {"open_loop_error", "predicted_and_true", "calibration", "disagreement", "imagined_returns", "critic"}
    assert written == {f"{name}.png" for name in names | {"learning_curve", "learning_curve_seconds", "time"}}
    for name in written:
        assert (run / "plots" / name).stat().st_size > 5_000

    assert cli.main(["report", str(run), "--diagnose"]) == 0
    assert path.stat().st_mtime_ns == stamp  # measured once
    assert str(run / "report.html") in capsys.readouterr().out
    if BROWSER:
        dom, console = opened(run / "report.html")
        assert not console
        assert all(
            f"<h2>{title}" in dom
            for title in ("Summary", "Curves", "Real and imagined", "Model and critic", "Evaluations")
        )
        assert dom.count("<svg") > 7 and dom.count("<canvas") == 2
        assert re.search(r"step \d+ of 200<", dom)

    assert cli.main(["render", str(run), "--steps", "5"]) == 0
    assert (run / "plots" / "policy.gif").read_bytes().startswith(b"GIF89a")
    assert cli.main(["render", str(run), "--steps", "5", "--imagined", "--out", str(run / "both.gif")]) == 0
    with Image.open(run / "plots" / "policy.gif") as alone, Image.open(run / "both.gif") as both:
        assert abs(both.n_frames - alone.n_frames) <= 1  # a GIF joins frames that are alike
        assert both.width == 2 * alone.width + 12


def test_a_run_without_a_checkpoint_still_has_curves(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "run")
    assert cli.main(["plot", str(run), "--diagnose"]) == 0
    assert "no checkpoint yet" in capsys.readouterr().out
    assert cli.main(["report", str(run), str(make_run(tmp_path / "runs" / "other"))]) == 0
    assert "plots/report.html" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"run", "other"}


def test_each_world_has_a_chart_of_its_own(tmp_path):
    runs = [make_run(tmp_path / "lqr"), make_run(tmp_path / "pendulum", preset("sac", "classic/pendulum"))]
    report.report(runs, tmp_path / "report.html")
    data = json.loads(Page((tmp_path / "report.html").read_text()).data)
    assert [curve["world"] for curve in data["curves"]] == ["classic/lqr", "classic/pendulum"]
    if BROWSER:
        dom, console = opened(tmp_path / "report.html")
        assert not console
        assert "<h3>classic/lqr</h3>" in dom and "<h3>classic/pendulum</h3>" in dom
