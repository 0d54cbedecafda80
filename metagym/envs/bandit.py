"""Multi-armed bandits: find the best arm, one pull an episode."""

from typing import Any

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import choice_of, integer, number
from metagym.envs.bandit_arms import LEVELS, Arms, DriftingArms, IndependentArms, InformativeArms, MirroredArms
from metagym.errors import ConfigError
from metagym.family import Family, Region, Step
from metagym.render import canvas, draw_line, draw_text, fill_rect
from metagym.types import Array, Float

__all__ = ["VARIANTS", "Bandit"]

VARIANTS = ("independent", "uniform", "easy", "medium", "hard", "informative", "restless")


class Bandit(Family[Any, Any]):
    """Multi-armed bandits: find the arm that pays best; one pull is one episode.

    What is learnt about a bandit is carried from pull to pull by the agent alone: the observation is constant.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | means | (10,) | 0 | 1 | reward | mean reward of each arm |

    With `reward="gaussian"`, means are in [-1, 2]. The other variants have other parameters: "uniform", "easy",
    "medium" and "hard" `first_mean` in [0, 1], the mean of arm 0, where arm 1 has 1 - `first_mean`, so that a task of
    one of them can be set in all; "restless" `first_mean` at the first pull, and `volatility` in [0.01, 0.5], the
    standard deviation of the drift from pull to pull; "informative" `target`, the arm from 0 to 9 that pays 5.

    ## Action Space

    `Discrete(num_arms)`: the arm to pull.

    ## Observation Space

    `Discrete(1)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | always 0 | 0 | 0 | none |

    ## Rewards

    Bernoulli: 1 with the probability that is the arm's mean, else 0. Gaussian: normal around the arm's mean with
    standard deviation `reward_std`. "informative" pays without noise: 5 for the target, 1 for the nine others of arms
    0 to 9, and (target + 1) / 10 for arm 10, which tells the target.

    ## Starting State

    There is one state. In "restless", the mean of arm 0 is a hidden state, which starts at `first_mean`, moves after
    every pull by a normal step with standard deviation `volatility`, and is reflected at 0 and 1.

    ## Episode End

    Terminated by every pull. "restless" is never terminated, and truncated after `episode_length` pulls: what drifts
    does so within an episode, and a trial of one episode is the published task.

    ## Information

    Nothing of its own.

    ## Arguments

    - `variant`: how arms depend on each other, one of those below.
    - `num_arms`: K, 2 to 1000, 10 by default; only with "independent", the others have 2, "informative" 11.
    - `reward`: "bernoulli" or "gaussian", the latter only with "independent".
    - `reward_std`: standard deviation of Gaussian rewards, in (0, 100]; must be left at 1 with "bernoulli".
    - `episode_length`: pulls, 1 to 100,000, 100 by default; only with "restless", all others have 1.

    | Variant | Means | Pulls of a trial | Source |
    |---|---|---|---|
    | independent | each uniform on [0, 1] | 10, 100, 500 | RL² |
    | uniform | q and 1 - q, q uniform on [0, 1] | 100 | Wang et al., 3.1.2 |
    | easy | q and 1 - q, q 0.1 or 0.9 | 100 | Wang et al., 3.1.2 |
    | medium | q and 1 - q, q 0.25 or 0.75 | 100 | Wang et al., 3.1.2 |
    | hard | q and 1 - q, q 0.4 or 0.6 | 100 | Wang et al., 3.1.2 |
    | informative | 1, one of ten 5, and an arm that tells which | 5 | Wang et al., 3.1.3 |
    | restless | p and 1 - p, p drifting | 100 | Wang et al., 3.1.4 |

    ## Splits

    train and test: as in the table, all values equally likely. Disjoint by a hash of `means` or `first_mean`; in
    "restless" `volatility` is a detail of 0.02 or 0.2. "informative" has 8 targets for training and 2 for testing.
    "easy", "medium" and "hard" have two tasks, mirror images: both are for training, since an agent trained on one of
    them would learn to pull one arm, and there is no "test". For these and for "informative" the published protocol,
    which trains and tests on one distribution, is split=None.

    ood, Bernoulli: one arm, each with the same probability, pays with probability 0.5 + delta and all others with
    0.5 - delta, delta uniform on [0.05, 0.5]: a set of probability zero in training, on which arms tell about each
    other. ood, Gaussian: every mean uniform on [-1, 0) and (1, 2]. ood of "easy", "medium" and "hard": `first_mean`
    uniform on [0, 1]. ood of "restless": `volatility` uniform on (0.2, 0.5]. "uniform" and "informative" have none.

    ## Reference Returns

    One pull, exact: random pays the mean of the means, optimal the largest mean. Averaged over training tasks that is
    0.5, and K / (K + 1) = 0.9091 for K = 10; "uniform" 0.5 and 0.75; "informative" 14.55 / 11 and 5. "restless", 100
    pulls, exact: random 50; optimal, for an agent that sees the drifting mean as well, 75 averaged over tasks. One
    that filters exactly what it sees, which is the best to be done in one episode, earns 68.44 +- 0.03 in simulation.

    These optima know the task. The best any agent that does not can reach (`bayes_return`), summed over a Bernoulli
    trial of n pulls (K, n): (2, 10) 6.022, (2, 100) 64.918, (2, 200) 131.094, (5, 10) 6.660, (10, 10) 6.714,
    (50, 10) 6.714 by dynamic programming, and (5, 100) 78.65, (10, 100) 83.76, (50, 100) 85.55, (5, 500) 408.6,
    (10, 500) 442.2, (50, 500) 464.9 by simulating finite-horizon Gittins indices. In 100 pulls of "uniform" 73.779,
    "easy" 89.375, "medium" 74.000, "hard" 57.688, that is a regret of 1.221, 0.625, 1.000 and 2.312; in 5 of
    "informative" 20.55. `bayes_return` is None for Gaussian and "restless" arms, for 2 arms beyond 200 pulls, and for
    more arms where there are more than 100,000 multisets of counts (3 arms: 24 pulls; 5: 17; 10 and more: 16).

    ## References

    Bernoulli: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.1 and
    Table 1 (K 5, 10 and 50; n 10, 100 and 500 pulls). Gaussian: tristandeleu/pytorch-maml-rl,
    `maml_rl/envs/bandit.py`. Other variants: Wang et al. 2016, "Learning to reinforcement learn", arXiv 1611.05763,
    section 3.1; "easy" also RobertTLange/gymnax, `gymnax/environments/misc/bernoulli_bandit.py`. Gittins 1979, "Bandit
    processes and dynamic allocation indices".

    Differs: pytorch-maml-rl observes the constant 1 for Bernoulli arms and 0 for Gaussian ones; here it is 0 for both.
    Wang et al. also show the number of the pull, and in "informative" the reward one-hot. Of the drift of "restless"
    they say that it is a Gaussian random walk, slow in some episodes and fast in others, and give no numbers: its
    start, the walls, both standard deviations and their equal shares are chosen here. awjuliani/Meta-RL,
    `A3C-Meta-Bandit.ipynb`, walks with uniform steps and stretches every walk to [0, 1] afterwards.

    ## Version History

    - v0: first version; `variant` came later and left it as it was.
    """

    name = "Bandit"

    def __init__(
        self,
        *,
        variant: str = "independent",
        num_arms: int | None = None,
        reward: str = "bernoulli",
        reward_std: float = 1.0,
        episode_length: int | None = None,
    ) -> None:
        self.variant = choice_of("variant", variant, VARIANTS)
        self.reward = choice_of("reward", reward, ["bernoulli", "gaussian"])
        self.reward_std = number("reward_std", reward_std, 0.0, 100.0, above=True)
        if self.reward == "bernoulli" and self.reward_std != 1.0:
            raise ConfigError(f"reward_std={reward_std!r} contradicts reward='bernoulli'; leave it out")
        self.arms = arms = self._make_arms(num_arms, episode_length)
        self.num_arms, self.episode_length = arms.num_arms, arms.episode_length
        self.params_type, self.structural = arms.params_type, arms.structural
        self.initial_needs_task = self.variant == "restless"
        self.task_space = arms.task_space
        self.observation_space = spaces.Discrete(1)
        self.action_space = spaces.Discrete(self.num_arms)
        self.num_structure_draws, self.num_detail_draws = arms.num_structure_draws, arms.num_detail_draws
        self.num_step_draws = arms.num_step_draws
        if self.variant in LEVELS:
            self.unsplit = f"variant={self.variant!r} has two bandits, mirror images; evaluate on split=None"

    def _make_arms(self, num_arms: int | None, episode_length: int | None) -> Arms:
        if self.variant == "restless":
            length = integer("episode_length", 100 if episode_length is None else episode_length, 1, 100_000)
        elif episode_length is not None:
            raise ConfigError(
                f"episode_length={episode_length!r} contradicts variant={self.variant!r}, whose episodes are one pull; "
                "it goes with 'restless'"
            )
        if self.variant == "independent":
            count = integer("num_arms", 10 if num_arms is None else num_arms, 2, 1000)
            return IndependentArms(count, self.reward_std if self.reward == "gaussian" else None)
        if self.reward == "gaussian":
            raise ConfigError(f"reward='gaussian' contradicts variant={self.variant!r}; it goes with 'independent'")
        arms: Arms
        if self.variant == "informative":
            arms = InformativeArms()
        else:
            arms = DriftingArms(length) if self.variant == "restless" else MirroredArms(LEVELS.get(self.variant))
        if num_arms is not None and integer("num_arms", num_arms, 2, 1000) != arms.num_arms:
            raise ConfigError(f"num_arms={num_arms!r} contradicts variant={self.variant!r}, which has {arms.num_arms}")
        return arms

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        return self.arms.draw_structure(noise, region)

    @override
    def draw_details(self, noise: Float, region: Region) -> dict[str, Array]:
        return self.arms.draw_details(noise, region)

    @override
    def enumerate_structures(self) -> tuple[dict[str, Array], Float] | None:
        return self.arms.enumerate_structures()

    @override
    def initial(self, params: Any, noise: Float) -> Any:
        return self.arms.initial(params, len(noise))

    @override
    def step(self, state: Any, action: Array, params: Any, noise: Float) -> Step[Any]:
        state, reward = self.arms.pull(state, np.array(action, dtype=np.int64), params, noise)
        return Step(state, reward, np.full(len(reward), self.variant != "restless"))

    @override
    def expected_reward(self, state: Any, action: Array, params: Any) -> Float:
        means = self.arms.means(state, params)
        return means[np.arange(len(means)), np.asarray(action, np.int64)]

    @override
    def observe(self, state: Any, params: Any) -> Array:
        return np.zeros(len(state.arm), dtype=np.int64)

    @override
    def optimal_return(self, params: Any) -> Float:
        return self.arms.optimal_return(params)

    @override
    def random_return(self, params: Any) -> Float:
        return self.arms.random_return(params)

    @override
    def bayes_return(self, num_episodes: int) -> Float | None:
        limit = self.arms.bayes_return(integer("num_episodes", num_episodes, 1, 1_000_000))
        return None if limit is None else np.array(limit)

    @override
    def describe(self, state: Any, params: Any) -> str:
        arms = enumerate(self.arms.means(state, params)[0].tolist())
        return " ".join(f"[{mean:.2f}]" if arm == state.arm[0] else f" {mean:.2f} " for arm, mean in arms) + "\n"

    @override
    def draw(self, state: Any, params: Any) -> Array:
        height, base, width = 320, 280, 480
        low, high = self.arms.levels[0], self.arms.levels[-1]
        scale = 240 / (high - low)
        zero = base + low * scale
        image = canvas(height, width)
        for level in self.arms.levels:
            draw_line(image, 44, zero - level * scale, width - 16, zero - level * scale, "grid", thickness=1)
            draw_text(image, f"{level:.1f}", 12, int(zero - level * scale) - 3)
        pitch = (width - 68) / self.num_arms
        for arm, mean in enumerate(self.arms.means(state, params)[0].tolist()):
            x, top = 48 + (arm + 0.1) * pitch, zero - max(mean, 0.0) * scale
            color = "agent" if arm == state.arm[0] else "blue"
            fill_rect(image, x, top, 0.8 * pitch, max(abs(mean) * scale, 1.0), color)
            if pitch >= 14:
                draw_text(image, str(arm), int(x + 0.4 * pitch) - 3 * len(str(arm)), base + 12)
        return image
