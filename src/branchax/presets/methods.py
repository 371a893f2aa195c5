"""The methods, as values: a preset is a `Config` literal."""

from __future__ import annotations

from dataclasses import replace

from branchax.config import (
    Config,
    CriticConfig,
    DQNConfig,
    ModelConfig,
    PathwiseConfig,
    PlannerConfig,
    PolicyGradientConfig,
    QLearningConfig,
    RolloutConfig,
    SACConfig,
    TD3Config,
)

# Sized for a laptop's processor: a small world needs no 4 x 200, and time goes into updates, not into a perfect fit.
_MODEL = ModelConfig(members=5, elites=3, hidden=(64, 64, 64), round_steps=50, max_rounds=30)
# Targets that follow within 50 updates: a small world is learned in some thousands of updates, and values grow only as
# fast as the targets follow.
_AGENT = SACConfig(hidden=(64, 64), learning_rate=1e-3, tau=0.02)
_TD3 = TD3Config(hidden=(64, 64), learning_rate=1e-3, tau=0.02)
_SMALL = Config(
    env_steps=4_000,
    explore_steps=250,
    model=_MODEL,
    rollout=RolloutConfig(per_step=100, groups=6),
    agent=_AGENT,
)
# Chosen on seeds 20 to 24 of small worlds (docs/algorithms/mbpo.md). Short epochs bring new data into updates quickly.
# Predictions may leave the data's range by its full width. Critics see standardised
# observations; their values start in the middle of the possible range and are clipped to it.
_BRANCHED = replace(
    _SMALL,
    env_steps=1_500,
    explore_steps=100,
    epoch_steps=25,
    updates_per_step=20.0,
    model=replace(_MODEL, max_rounds=10, bound_margin=1.0),
    rollout=replace(_SMALL.rollout, horizon=10),
    agent=replace(_AGENT, normalise_obs=True, critic=CriticConfig(pre_norm=True, zero_last=True, scale="possible")),
)

# On-policy agents in a model: collect, fit, then many updates, each on rollouts of its own from initial states.
_LONG = replace(
    _SMALL,
    env_steps=8_000,
    explore_steps=400,
    epoch_steps=400,
    collect_steps=400,
    updates_per_step=0.25,
    rollout=RolloutConfig(start="initial", horizon=200, per_update=60, groups=3),
)
_PPO = PolicyGradientConfig(passes=10, minibatches=4, clip=0.2)
_REAL = replace(
    _SMALL,
    env_steps=200_000,
    explore_steps=16,
    epoch_steps=4_096,
    collect_steps=4_096,
    parallel_worlds=16,
    updates_per_step=1 / 4_096,
    rollout=RolloutConfig(horizon=0),
    real_fraction=1.0,
)

# Nothing is imagined into a buffer: each update rolls the model out from its own batch of real rows.
_AHEAD = replace(_SMALL, rollout=RolloutConfig(horizon=3), real_fraction=1.0)
_DQN = replace(_SMALL, world="classic/cartpole_discrete", agent=DQNConfig(tau=0.01))
# One real step, one update on it (and on `batch_size` imagined ones), as the textbook has it.
_TABLE = replace(
    _SMALL,
    world="classic/gridworld",
    env_steps=6_000,
    explore_steps=1,
    epoch_steps=100,
    updates_per_step=1.0,
    model=ModelConfig(kind="tabular"),
    agent=QLearningConfig(),
    rollout=RolloutConfig(horizon=0),
    real_fraction=1.0,
)
# Plans in the model at every step, fitted afresh every 200. Its predictions may leave the range of the data by as much
# again, so that a plan off the track looks as bad as it is.
_CEM = PlannerConfig(horizon=40, candidates=100, iterations=3, elites=30)
_PLAN = replace(
    _SMALL,
    env_steps=2_100,
    explore_steps=100,
    epoch_steps=200,
    collect_steps=200,
    updates_per_step=1 / 200,
    eval_every=5,
    eval_episodes=4,
    model=replace(_MODEL, bound_margin=1.0),
    rollout=RolloutConfig(),
    agent=_CEM,
)
_ORACLE = ModelConfig(kind="oracle")


PRESETS: dict[str, Config] = {
    # Short branched rollouts (Janner et al. 2019, arXiv:1906.08253).
    "mbpo": _BRANCHED,
    # As in the paper, sizes and all: rollouts of one step, a fit every 250.
    "mbpo_paper": Config(),
    # The model-free baseline: the same code with nothing imagined.
    "sac": replace(_SMALL, rollout=RolloutConfig(horizon=0), real_fraction=1.0),
    # The simulator in place of the model: any remaining error is not due to the model.
    "oracle_mbpo": replace(_BRANCHED, model=_ORACLE),
    # Rollouts ruled out where the ensemble doubts: Pan et al. 2020, arXiv:2010.04893; Frauenknecht et al. 2024,
    # arXiv:2405.19014.
    "m2ac": replace(
        _BRANCHED,
        model=replace(_BRANCHED.model, uncertainty="one_vs_rest"),
        rollout=RolloutConfig(per_step=100, groups=6, horizon=5, gate="rank", penalty=1e-3),
    ),
    # Offline, with a penalty for doubt: Yu et al. 2020, arXiv:2005.13239.
    "mopo": replace(
        _SMALL,
        model=replace(_MODEL, uncertainty="max_std"),
        rollout=RolloutConfig(per_step=100, groups=6, horizon=5, penalty=1.0),
    ),
    "macura": replace(_BRANCHED, rollout=RolloutConfig(per_step=100, groups=6, horizon=10, gate="threshold")),
    # Critics' targets that look ahead in the model: Feinberg et al. 2018, arXiv:1803.00101; Buckman et al. 2018,
    # arXiv:1807.01675.
    "mve": replace(_AHEAD, agent=replace(_AGENT, critic=CriticConfig(expand="mve"))),
    "steve": replace(_AHEAD, agent=replace(_AGENT, critic=CriticConfig(members=4, expand="steve"))),
    # The actor's gradient through the model, the critic on real data: Amos et al. 2021, arXiv:2008.12775.
    "svg": replace(_AHEAD, agent=replace(_AGENT, through_model=True)),
    # Q-learning on one-step rollouts, from the textbook's table (Sutton 1990) to networks.
    "dyna_q": replace(
        _TABLE,
        rollout=RolloutConfig(per_step=10, groups=1, first_action="replayed"),
        batch_size=10,
        real_fraction=0.0,
    ),
    "dyna": replace(_DQN, real_fraction=0.5),
    # Many critics, the target by a random two of them (Chen et al. 2021, arXiv:2101.05982).
    "redq": replace(
        _SMALL,
        rollout=RolloutConfig(horizon=0),
        real_fraction=1.0,
        agent=replace(_AGENT, critic=CriticConfig(members=10, subset=2)),
    ),
    # TD3 in SAC's place, without a model and with one.
    "td3": replace(_SMALL, rollout=RolloutConfig(horizon=0), real_fraction=1.0, agent=_TD3),
    "mbpo_td3": replace(_BRANCHED, agent=replace(_TD3, critic=CriticConfig(pre_norm=True))),
    "dqn": replace(_DQN, rollout=RolloutConfig(horizon=0), real_fraction=1.0),
    "q_learning": _TABLE,
    # 2.0: back through long rollouts of the model (SVG(infinity), Heess et al. 2015).
    "v2.0": replace(_LONG, agent=PathwiseConfig(critic=False)),
    # 2.5: likelihood ratios on long rollouts of the model, no new real data until the updates are done.
    "v2.5": replace(_LONG, agent=_PPO),
    "v2.5_a2c": replace(_LONG, agent=PolicyGradientConfig(learning_rate=1e-3)),
    "v2.5_reinforce": replace(_LONG, agent=PolicyGradientConfig(weight="to_go", learning_rate=1e-3)),
    # The same until the models disagree (Kurutach et al. 2018, arXiv:1802.10592).
    "me_trpo": replace(_LONG, agent=_PPO, rollout=replace(_LONG.rollout, validate_every=5)),
    # PPO on short branched rollouts, within a divergence that each collection may bring.
    "mbppo": replace(
        _LONG,
        agent=replace(_PPO, kl_budget=1.0),
        rollout=RolloutConfig(horizon=10, per_update=240, groups=3),
    ),
    # Planning: Chua et al. 2018, arXiv:1805.12114; Nagabandi et al. 2018, arXiv:1708.02596; Pinneri et al. 2020,
    # arXiv:2008.06389; Williams et al. 2017.
    "pets": _PLAN,
    "pets_random": replace(
        _PLAN,
        agent=PlannerConfig(
            horizon=40,
            candidates=300,
            iterations=1,
            elites=1,
            momentum=0.0,
            init_std=1.0,
            uniform=True,
            warm_start=False,
            execute="best",
        ),
    ),
    "pets_icem": replace(
        _PLAN, agent=replace(_CEM, elites=10, noise_exponent=1.0, keep=0.3, decay=1.25, execute="best")
    ),
    "pets_mppi": replace(
        _PLAN,
        agent=replace(_CEM, elites=100, iterations=2, temperature=0.3, momentum=0.0, std_momentum=1.0),
    ),
    # Pathwise through the simulator: whole episodes (Freeman et al. 2021), or short ones and a critic (Xu et al. 2022).
    "apg": replace(_LONG, agent=PathwiseConfig(critic=False, deterministic=True), model=_ORACLE),
    "shac": replace(
        _LONG,
        agent=PathwiseConfig(),
        model=_ORACLE,
        rollout=replace(_LONG.rollout, start="replay", horizon=16),
    ),
    # Model-free, on-policy.
    "ppo": replace(_REAL, agent=_PPO),
    "a2c": replace(_REAL, agent=PolicyGradientConfig(learning_rate=1e-3)),
    "reinforce": replace(_REAL, agent=PolicyGradientConfig(weight="to_go", learning_rate=1e-3)),
}
# Two horizons: states spread by rollouts of 20 steps, and updates that look five steps ahead from them, for critics and
# actor alike (Kubo et al. 2025, DHMBPO).
_DOUBLE = SACConfig(
    hidden=(256, 256, 256),
    discount=0.995,
    entropy_per_action=-1.0,
    through_model=True,
    activation="silu",
    normalise_obs=True,
    reset_optimizer=True,
    critic_warmup=250,
    critic=CriticConfig(
        members=5, subset=2, expand="fresh", pre_norm=True, dropout=0.001, zero_last=True, scale="quantile"
    ),
)
_STEADY = ModelConfig(
    members=8,
    elites=8,
    hidden=(256, 256, 256),
    noise="constant",
    pre_norm=True,
    dropout=0.005,
    batch_size=2_048,
    max_rounds=30,
    good_error=0.0,
    bound_margin=1.0,
)
PRESETS["dhmbpo"] = Config(
    env_steps=100_000,
    explore_steps=4_000,
    epoch_steps=1_000,
    collect_steps=1_000,
    updates_per_step=1.0,
    first_updates=5_000,
    real_fraction=0.0,
    model=replace(_STEADY, bootstrap="weights", stop="mixture"),
    rollout=RolloutConfig(horizon=20, every=20, look_ahead=5, per_step=13, groups=8, keep_epochs=10),
    agent=_DOUBLE,
    eval_episodes=10,
)
PRESETS["dhmbpo_small"] = replace(
    PRESETS["dhmbpo"],
    env_steps=50_000,
    epoch_steps=500,
    collect_steps=500,
    model=replace(_STEADY, members=5, elites=5, hidden=(128, 128, 128), batch_size=256, max_rounds=50),
    rollout=RolloutConfig(horizon=20, every=20, look_ahead=5, per_step=13, groups=5, keep_epochs=10),
    agent=replace(_DOUBLE, hidden=(128, 128, 128)),
)
# The same updates from the states of real rows: no distribution rollouts.
PRESETS["svg5"] = replace(PRESETS["dhmbpo_small"], real_fraction=1.0, rollout=RolloutConfig(horizon=5, groups=5))
# A little imagined data keeps critics sound under many updates (Voelcker et al. 2025, arXiv:2410.08896).
PRESETS["mad_td"] = replace(_SMALL, real_fraction=0.95)
# For worlds that are learned in hundreds of steps: it explores and refits as `mbpo` does, and values follow as fast.
# Noise depends on the state: with constant noise, an entry that is nonzero only in collisions would be noisy
# everywhere. Predictions stay near the data: in a model, a cart would leave its rail. Where episodes can end, rollouts
# that leave the data end too: clipping would stop the cart at the edge as if there were a wall.
PRESETS["dhmbpo_tiny"] = replace(
    PRESETS["dhmbpo_small"],
    env_steps=2_000,
    explore_steps=100,
    epoch_steps=25,
    collect_steps=25,
    updates_per_step=10.0,
    first_updates=None,
    rollout=replace(PRESETS["dhmbpo_small"].rollout, every=25),
    model=replace(
        _STEADY,
        noise="state",
        members=5,
        elites=5,
        hidden=(64, 64, 64),
        batch_size=256,
        max_rounds=10,
        bound_margin=0.1,
        beyond="end",
    ),
    agent=replace(
        _DOUBLE,
        hidden=(64, 64),
        learning_rate=1e-3,
        discount=0.99,
        tau=0.02,
        value_before_end=True,
        reset_optimizer=False,
        critic_warmup=0,
        critic=replace(_DOUBLE.critic, scale="possible"),
    ),
)
_WITH_ORACLE = ("mve", "steve", "svg", "dyna", "mbppo")
PRESETS |= {f"oracle_{name}": replace(PRESETS[name], model=_ORACLE) for name in _WITH_ORACLE}

ABOUT: dict[str, str] = {
    "mbpo": "short branched rollouts in a learned ensemble, improved by SAC; sized for a laptop",
    "mbpo_paper": "the same at the MBPO paper's sizes: 7 x (4 x 200), SAC 2 x 256, 400 rollouts per step",
    "sac": "model-free soft actor-critic: the same code at horizon 0",
    "oracle_mbpo": "mbpo with the simulator itself as the model",
    "m2ac": "mbpo whose rollouts keep the steps that the ensemble doubts least",
    "macura": "mbpo whose rollouts end where the ensemble doubts more than at real states",
    "mopo": "mbpo whose imagined rewards are lowered by doubt; meant for --dataset FILE",
    "mve": "SAC on real data, its targets three model steps ahead",
    "steve": "the same over all horizons up to three, weighted by inverse variance",
    "svg": "SAC on real data, its actor's gradient through three model steps",
    "dyna_q": "tabular Dyna-Q: a table for Q, a table for the model",
    "dyna": "deep Dyna-Q: DQN on real and on one-step imagined data",
    "redq": "model-free SAC with ten critics, targets by a random two",
    "td3": "model-free TD3",
    "mbpo_td3": "mbpo with TD3 in SAC's place",
    "dqn": "model-free double DQN, for discrete actions",
    "q_learning": "model-free Q-learning with a table",
    "v2.0": "gradients back through long rollouts of the model; no critic",
    "v2.5": "PPO on long rollouts of the model, many updates per collection",
    "v2.5_a2c": "the same with advantage actor-critic",
    "v2.5_reinforce": "the same with REINFORCE",
    "mbppo": "PPO on short branched rollouts, with a budget of divergence per collection",
    "pets": "plans by the cross-entropy method in the ensemble at every step",
    "pets_random": "the same by random shooting",
    "pets_icem": "the same by iCEM",
    "pets_mppi": "the same by MPPI",
    "me_trpo": "v2.5 that stops improving when the ensemble's members disagree",
    "apg": "gradients back through whole episodes of the simulator itself",
    "shac": "gradients back through short rollouts of the simulator, and a critic",
    "ppo": "model-free PPO",
    "a2c": "model-free advantage actor-critic",
    "reinforce": "model-free REINFORCE",
}
ABOUT |= {
    "dhmbpo": "two horizons: states spread over 20 steps, updates through 5 more, at the paper's sizes",
    "dhmbpo_small": "the same at a laptop's sizes",
    "dhmbpo_tiny": "the same for worlds that are learned in hundreds of steps",
    "svg5": "the updates of dhmbpo_small from real states: nothing is spread",
    "mad_td": "SAC on 95 % real and 5 % imagined one-step rows",
}
ABOUT |= {f"oracle_{name}": f"{name} with the simulator itself as the model" for name in _WITH_ORACLE}
