"""Renders a policy in the real world as a video: GIF, or mp4 if ffmpeg is installed."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from branchax.devices import cache
from branchax.errors import ConfigError, RunError
from branchax.runs import rundir
from branchax.views import bodies, play, scenes, sideways
from branchax.views.shapes import ACCENT, BODY, GOAL, GROUND, Scene

INK = {BODY: "#0072B2", ACCENT: "#D55E00", GOAL: "#009E73", GROUND: "#8B93A0"}
BACKGROUND = 244
SMOOTH = 3  # pictures are drawn so many times larger and then scaled down


class RenderError(RunError):
    """Pictures that cannot be made on this machine."""


def render(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    steps: int | None = None,
    seed: int | None = None,
    imagined: bool = False,
    say: Callable[[str], Any] = lambda text: None,
) -> int:
    """Plays the mode of the saved policy for one episode and writes a video to `path`; returns its number of steps.

    It starts like the first episode of the run's own last evaluation.

    Args:
      directory: the run's directory.
      path: ends in `.gif`, or in `.mp4`, which needs ffmpeg.
      steps: the maximum number of steps; by default the whole episode.
      seed: by default the run's first.
      imagined: also draws, side by side, what the first elite of the model imagines from the same start with the same
        policy.
      say: called with messages before slow steps.

    Raises:
      ConfigError: if the world has no drawing, or the path has another ending; for `imagined`, if there is no learned
        model, or if MuJoCo draws the world.
      RenderError: when MuJoCo cannot draw or ffmpeg fails.
    """
    path = Path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"out: {path} is not possible; allowed: a path that ends in .gif or .mp4")
    if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise ConfigError(f"out: {path} needs ffmpeg, which is not installed; allowed: .gif")
    if bodies.has_bodies(rundir.load_config(Path(directory)).world):
        _mujoco()  # before Brax imports it
    cache.enable()
    player = play.load(Path(directory), seed)
    spec = player.world.spec
    is_brax = bodies.has_bodies(spec.name)
    if not is_brax and not scenes.has_scene(spec.name):
        known = ", ".join([*(f"gym/{task}" for task in sideways.PLANAR), *scenes.SCENES])
        raise ConfigError(
            f"world: {spec.name} has no drawing; allowed: worlds of Brax, {known}; `branchax play` shows any world as"
            " traces of its observations"
        )
    if imagined and is_brax:
        raise ConfigError(f"imagined: {spec.name} is drawn from its state; allowed: worlds drawn from observations")
    if imagined and (player.dynamics is None or not player.config.model.has_networks):
        raise ConfigError("imagined: this run has no learned model")
    length = min(spec.episode_length, steps or spec.episode_length)
    say(f"compiling and playing an episode of at most {length:,} steps")
    keep = bodies.joints if is_brax else lambda state: ()
    trajectory = jax.tree.map(np.asarray, play.episodes(player, player.config.eval_episodes, length, keep)(True)[0])
    count = int(trajectory.valid[:, 0].sum())
    obs = trajectory.transition.obs[:count, 0]
    if is_brax:
        from branchax.worlds.brax import environment

        env = environment(spec.name.removeprefix("brax/"), player.config.backend)
        pictures, seconds = mujoco_pictures(env.sys.mj_model, trajectory.state[:count, 0]), float(env.dt)
    else:
        made = player.config.world_args
        drawing = scenes.scene(spec.name, obs, made)
        assert drawing is not None
        pictures, seconds = (picture(drawing, i) for i in range(count)), scenes.step_seconds(spec.name, made)
        if imagined:
            dream = play.imagine(player, obs[:1], count, members=1)
            alive = int(dream.valid[0, :, 0].sum())
            other = scenes.scene(spec.name, np.asarray(dream.transition.obs[0, :alive, 0]), made)
            assert other is not None
            frames = (picture(other, min(i, alive - 1)) for i in range(count))  # stands still after its end
            pictures = (put_beside(*both) for both in zip(pictures, frames, strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"drawing {count:,} pictures")
    write(path, _counted(pictures, count), seconds, colours=256 if is_brax else 32)
    return count


def _counted(pictures: Iterator[Image.Image], count: int) -> Iterator[Image.Image]:
    """The pictures, with a progress bar if this is a terminal (elsewhere it would leave an empty line)."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    quiet = not console.is_terminal
    yield from track(pictures, "  drawing", total=count, console=console, transient=True, disable=quiet)


def picture(scene: Scene, i: int, width: int = 400) -> Image.Image:
    """The picture of a scene at time i."""
    x0, y0, x1, y1 = scene.view
    scale = SMOOTH * width / (x1 - x0)
    size = SMOOTH * width, 2 * round(scale * (y1 - y0) / SMOOTH / 2) * SMOOTH  # even, as video formats need it
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for shape in scene.shapes:
        at = shape.at[i] if shape.at.ndim == 2 else shape.at
        spots = [(scale * (x - x0), scale * (y1 - y)) for x, y in at[: 2 * (len(at) // 2)].reshape(-1, 2)]
        ink = INK[shape.role]
        if shape.kind in ("line", "path"):
            thick = max(SMOOTH, round(shape.size[0] * scale))
            draw.line(spots, fill=ink, width=thick, joint="curve")
            for spot in spots:
                draw.circle(spot, thick / 2, fill=ink)
        elif shape.kind == "disc":
            draw.circle(spots[0], max(SMOOTH, shape.size[0] * scale), fill=ink)
        else:
            draw.polygon(_corners(spots[0], [scale * x for x in shape.size], at[2]), fill=ink)
    return image.resize((size[0] // SMOOTH, size[1] // SMOOTH), Image.Resampling.LANCZOS)


def put_beside(real: Image.Image, imagined: Image.Image) -> Image.Image:
    """Puts two pictures of the same size side by side, with a title above each."""
    gap, top = 12, 26
    both = Image.new("RGB", (real.width + gap + imagined.width, real.height + top), "white")
    draw, font = ImageDraw.Draw(both), ImageFont.load_default(16)
    for left, word, each in ((0, "real", real), (real.width + gap, "imagined", imagined)):
        both.paste(each, (left, top))
        draw.text((left + each.width / 2, top / 2), word, fill="#4A5160", font=font, anchor="mm")
    return both


def _corners(centre: tuple[float, float], size: Sequence[float], angle: float) -> list[tuple[float, float]]:
    """The corners of a box that is turned counterclockwise by `angle` [rad], in pixels with y downwards."""
    cos, sin = np.cos(angle), np.sin(angle)
    half = [(i * size[0] / 2, j * size[1] / 2) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return [(centre[0] + x * cos + y * sin, centre[1] - x * sin + y * cos) for x, y in half]


def mujoco_pictures(model: Any, positions: np.ndarray, width: int = 480, height: int = 360) -> Iterator[Image.Image]:
    """MuJoCo's pictures of joint positions [T, Q]. Raises `RenderError` when MuJoCo cannot draw."""
    mujoco = _mujoco()
    try:
        renderer = mujoco.Renderer(model, height=height, width=width)
    except Exception as error:  # graphics libraries raise many kinds of errors
        raise _cannot_draw(error) from error
    model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = 0.45, 0.55
    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    camera.azimuth, camera.elevation, camera.distance = 90.0, -15.0, 1.6 * model.stat.extent
    with renderer:
        for q in positions:
            data.qpos[:] = q
            mujoco.mj_forward(model, data)
            walks = model.nbody > 1 and model.jnt_type[0] in (mujoco.mjtJoint.mjJNT_FREE, mujoco.mjtJoint.mjJNT_SLIDE)
            if walks and model.nv > 4:  # a body that moves about; a cart stays in view
                camera.lookat[:] = data.xpos[1]
            renderer.update_scene(data, camera)
            pixels = renderer.render()
            pixels[~pixels.any(-1)] = BACKGROUND  # MuJoCo leaves the background black
            yield Image.fromarray(pixels)


def write(path: Path, pictures: Iterator[Image.Image], seconds: float, colours: int = 256) -> None:
    """Writes a video of pictures that are `seconds` apart, at up to 50 per second: at higher rates, some are skipped.

    A GIF has a palette of at most `colours`.
    """
    every = max(1, round(0.02 / seconds))
    shown = [image for i, image in enumerate(pictures) if i % every == 0]
    if path.suffix == ".gif":
        palette = [image.quantize(colours) for image in shown]
        duration = max(20, round(1000 * seconds * every / 10) * 10)  # GIF counts hundredths of a second
        palette[0].save(path, save_all=True, append_images=palette[1:], duration=duration, loop=0)
        return
    rate = f"{1 / (seconds * every):.3f}"
    size = f"{shown[0].width}x{shown[0].height}"
    film = [
        "ffmpeg",
        "-y",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        size,
        "-r",
        rate,
        "-i",
        "-",
    ]
    frames = b"".join(image.tobytes() for image in shown)
    done = subprocess.run([*film, "-pix_fmt", "yuv420p", str(path)], input=frames, capture_output=True, check=False)
    if done.returncode:
        raise RenderError(f"ffmpeg could not write {path}: {done.stderr.decode(errors='replace').strip()}")


def _mujoco() -> Any:
    """Imports MuJoCo, with EGL on a machine without a screen. Its first import sets how it draws, or fails."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        return importlib.import_module("mujoco")
    except Exception as error:
        raise _cannot_draw(error) from error


def _cannot_draw(error: Exception) -> RenderError:
    return RenderError(
        f"MuJoCo cannot draw here (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'unset')}): {error}; without a screen it"
        " needs EGL (MUJOCO_GL=egl, and the library libEGL). `branchax report` draws the bodies without it"
    )
