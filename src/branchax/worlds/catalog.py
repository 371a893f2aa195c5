"""The names of the worlds, and the facts about them that are needed before JAX is loaded (`--help`, `list`, checks)."""

from __future__ import annotations

from typing import NamedTuple

BRAX_BACKENDS = ("generalized", "positional", "spring", "mjx")

# MuJoCo Playground's versions of the DeepMind control suite, as playground/<name>.
PLAYGROUND = (
    "AcrobotSwingup",
    "AcrobotSwingupSparse",
    "BallInCup",
    "CartpoleBalance",
    "CartpoleBalanceSparse",
    "CartpoleSwingup",
    "CartpoleSwingupSparse",
    "CheetahRun",
    "FingerSpin",
    "FingerTurnEasy",
    "FingerTurnHard",
    "FishSwim",
    "HopperHop",
    "HopperStand",
    "HumanoidRun",
    "HumanoidStand",
    "HumanoidWalk",
    "PendulumSwingup",
    "PointMass",
    "ReacherEasy",
    "ReacherHard",
    "SwimmerSwimmer6",
    "WalkerRun",
    "WalkerStand",
    "WalkerWalk",
)


class Entry(NamedTuple):
    """The facts about a world that `branchax list` shows."""

    about: str
    discrete: bool = False
    backends: tuple[str, ...] = BRAX_BACKENDS  # what `backend` may be; worlds other than Brax's ignore it
    tabular: bool = False  # the observation is the one-hot vector of a state
    seconds: float | None = None  # per step; for worlds without a time unit, a speed that is easy to watch
    names: tuple[str, ...] = ()  # of the observation's entries


WORLDS: dict[str, Entry] = {
    "classic/pendulum": Entry(
        "swing a pendulum up and hold it there", seconds=0.05, names=("cos(angle)", "sin(angle)", "velocity [rad/s]")
    ),
    "classic/cartpole": Entry(
        "swing-free balancing of a pole on a cart, continuous force",
        seconds=0.02,
        names=("position [m]", "velocity [m/s]", "angle [rad]", "spin [rad/s]"),
    ),
    "classic/point_mass": Entry(
        "push a damped point mass to the origin of the plane",
        seconds=0.05,
        names=("x [m]", "y [m]", "x velocity [m/s]", "y velocity [m/s]"),
    ),
    "classic/double_pendulum": Entry(
        "raise two linked pendulums that move chaotically",
        seconds=0.05,
        names=("cos(a1)", "sin(a1)", "cos(a2)", "sin(a2)", "spin 1 [rad/s]", "spin 2 [rad/s]"),
    ),
    "classic/lqr": Entry(
        "linear dynamics, quadratic cost: optimal gain and value in closed form",
        seconds=0.1,
        names=("position [m]", "velocity [m/s]"),
    ),
    "classic/cartpole_discrete": Entry(
        "CartPole pushed left or right with full force",
        discrete=True,
        seconds=0.02,
        names=("position [m]", "velocity [m/s]", "angle [rad]", "spin [rad/s]"),
    ),
    "classic/acrobot": Entry(
        "swing the tip of two linked pendulums above a line",
        discrete=True,
        seconds=0.2,
        names=("cos(a1)", "sin(a1)", "cos(a2)", "sin(a2)", "spin 1 [rad/s]", "spin 2 [rad/s]"),
    ),
    "classic/mountain_car": Entry(
        "rock a weak car out of a valley", discrete=True, seconds=0.04, names=("position", "velocity")
    ),
    "classic/gridworld": Entry(
        "Sutton and Barto's maze for Dyna: 14 moves to the goal", discrete=True, tabular=True, seconds=0.2
    ),
    "classic/chain": Entry(
        "Strens's slippery chain: pass small rewards for a large one", discrete=True, tabular=True, seconds=0.2
    ),
    "probe/constant_reward": Entry("one step, reward 1: Q = 1"),
    "probe/observation": Entry("one step, reward equal to the observation: Q = obs"),
    "probe/discounting": Entry("two steps, reward 1 at the second: Q = discount, then 1"),
    "probe/action": Entry("one step, reward -(action - 1/2)^2: Q = reward, best action 1/2"),
    "probe/time_limit": Entry("reward 1, cut by the clock after every step: Q = 1 / (1 - discount)"),
    "probe/choice": Entry("one step, obs -1 or 1, reward 1 for the action that fits it, else 0", discrete=True),
    "brax/ant": Entry("four-legged locomotion"),
    "brax/fast": Entry("Brax's own test world, no physics"),
    "brax/halfcheetah": Entry("planar two-legged locomotion"),
    "brax/hopper": Entry("planar one-legged hopping"),
    "brax/humanoid": Entry("humanoid locomotion"),
    "brax/humanoidstandup": Entry("humanoid getting up"),
    "brax/inverted_pendulum": Entry(
        "balance a pole on a cart", names=("cart [m]", "pole [rad]", "cart velocity [m/s]", "pole spin [rad/s]")
    ),
    "brax/inverted_double_pendulum": Entry("balance two linked poles on a cart"),
    "brax/pusher": Entry("push an object to a goal"),
    "brax/reacher": Entry("reach a target with a two-link arm"),
    "brax/swimmer": Entry("planar swimming in a viscous fluid", backends=("generalized",)),
    "brax/walker2d": Entry("planar two-legged walking"),
}


def observation_names(world: str, size: int) -> list[str]:
    """The names of the entries of a world's observation [D]; unknown ones are called `obs 3`."""
    known = WORLDS[world].names if world in WORLDS else ()
    return list(known or [f"obs {i}" for i in range(size)])


def step_seconds(world: str) -> float:
    """Seconds per step of a world in a video."""
    return (WORLDS[world].seconds if world in WORLDS else None) or 0.1
