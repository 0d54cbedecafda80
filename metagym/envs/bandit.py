"""Multi-armed bandits: find the best arm, one pull an episode."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from typing_extensions import override

from metagym.envs.arguments import choice_of, integer, number
from metagym.errors import ConfigError
from metagym.family import Family, Params, Region, Step
from metagym.render import canvas, draw_line, draw_text, fill_rect
from metagym.types import Array, Float, Int

__all__ = ["Bandit", "BanditParams", "Pull"]

# The normal quantile of 0 is -inf; half of the smallest uniform above it stands in.
_SMALLEST = 2.0**-54


@dataclass(frozen=True)
class BanditParams(Params):
    """Columns of N bandits."""

    means: Float
    """Mean reward of each arm, (N, K)."""


class Pull(NamedTuple):
    """What was done last."""

    arm: Int
    """Arm pulled last, -1 before the first pull, (N,)."""


class Bandit(Family[Pull, BanditParams]):
    """Multi-armed bandits: find the arm that pays best; one pull is one episode.

    What is learnt about a bandit is carried from pull to pull by the agent alone: the observation is constant.

    ## Task Space

    | Parameter | Shape | Low | High | Unit | Meaning |
    |---|---|---|---|---|---|
    | means | (10,) | 0 | 1 | reward | mean reward of each arm |

    With `reward="gaussian"`, means are in [-1, 2].

    ## Action Space

    `Discrete(num_arms)`: the arm to pull.

    ## Observation Space

    `Discrete(1)`:

    | Num | Observation | Low | High | Unit |
    |---|---|---|---|---|
    | 0 | always 0 | 0 | 0 | none |

    ## Rewards

    Bernoulli: 1 with the probability that is the arm's mean, else 0. Gaussian: normal around the arm's mean with
    standard deviation `reward_std`.

    ## Starting State

    There is one state.

    ## Episode End

    Terminated by every pull.

    ## Information

    Nothing of its own.

    ## Arguments

    - `num_arms`: K, 2 to 1000.
    - `reward`: "bernoulli" or "gaussian".
    - `reward_std`: standard deviation of Gaussian rewards, in (0, 100]; must be left at 1 with "bernoulli".

    ## Splits

    train and test: every mean uniform on [0, 1], independently; disjoint by a hash of the means. ood, Bernoulli: one
    arm, each with the same probability, pays with probability 0.5 + delta and all others with 0.5 - delta, delta
    uniform on [0.05, 0.5]: a set of probability zero in training, on which arms tell about each other. ood, Gaussian:
    every mean uniform on [-1, 0) and (1, 2].

    ## Reference Returns

    One pull, exact: random pays the mean of the means, optimal the largest mean. Averaged over training tasks that is
    0.5, and K / (K + 1) = 0.9091 for K = 10. That optimum knows the task. The best any agent that does not can reach
    in a Bernoulli trial of n pulls is, summed over the trial (K, n): (5, 10) 6.660, (10, 10) 6.714, (50, 10) 6.714 by
    dynamic programming, and (5, 100) 78.65, (10, 100) 83.76, (50, 100) 85.55, (5, 500) 408.6, (10, 500) 442.2,
    (50, 500) 464.9 by simulating finite-horizon Gittins indices.

    ## References

    Bernoulli: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning", section 3.1 and
    Table 1 (K 5, 10 and 50; n 10, 100 and 500 pulls). Gaussian: tristandeleu/pytorch-maml-rl,
    `maml_rl/envs/bandit.py`. Gittins 1979, "Bandit processes and dynamic allocation indices".

    Differs: pytorch-maml-rl observes the constant 1 for Bernoulli arms and 0 for Gaussian ones; here it is 0 for both.

    ## Version History

    - v0: first version.
    """

    name = "Bandit"
    params_type = BanditParams
    structural = ("means",)
    initial_needs_task = False
    episode_length = 1
    num_step_draws = 1

    def __init__(self, *, num_arms: int = 10, reward: str = "bernoulli", reward_std: float = 1.0) -> None:
        self.num_arms = integer("num_arms", num_arms, 2, 1000)
        self.reward = choice_of("reward", reward, ["bernoulli", "gaussian"])
        self.reward_std = number("reward_std", reward_std, 0.0, 100.0, above=True)
        if self.reward == "bernoulli" and self.reward_std != 1.0:
            raise ConfigError(f"reward_std={reward_std!r} contradicts reward='bernoulli'; leave it out")
        low, high = (0.0, 1.0) if self.reward == "bernoulli" else (-1.0, 2.0)
        self.task_space = spaces.Dict(means=spaces.Box(low, high, (self.num_arms,), np.float64))
        self.observation_space = spaces.Discrete(1)
        self.action_space = spaces.Discrete(self.num_arms)
        self.num_structure_draws = self.num_arms

    @override
    def draw_structure(self, noise: Float, region: Region) -> dict[str, Array]:
        if region == "train":
            return {"means": noise.copy()}
        if self.reward == "gaussian":
            return {"means": np.where(noise < 0.5, 2.0 * noise - 1.0, 3.0 - 2.0 * noise)}
        best = (noise[:, :1] * self.num_arms).astype(np.int64)
        gap = 0.05 + 0.45 * noise[:, 1:2]
        return {"means": np.where(np.arange(self.num_arms) == best, 0.5 + gap, 0.5 - gap)}

    @override
    def initial(self, params: BanditParams, noise: Float) -> Pull:
        return Pull(np.full(len(noise), -1, dtype=np.int64))

    @override
    def step(self, state: Pull, action: Array, params: BanditParams, noise: Float) -> Step[Pull]:
        num_rows = len(action)
        arm = np.array(action, dtype=np.int64)
        mean = params.means.reshape(-1).take(np.arange(0, num_rows * self.num_arms, self.num_arms) + arm)
        if self.reward == "bernoulli":
            reward = (noise[:, 0] < mean).astype(np.float64)
        else:
            reward = mean + self.reward_std * _normal_quantile(noise[:, 0])
        return Step(Pull(arm), reward, np.ones(num_rows, dtype=np.bool_))

    @override
    def observe(self, state: Pull, params: BanditParams) -> Array:
        return np.zeros(len(state.arm), dtype=np.int64)

    @override
    def optimal_return(self, params: BanditParams) -> Float:
        best: Float = params.means.max(axis=1)
        return best

    @override
    def random_return(self, params: BanditParams) -> Float:
        mean: Float = params.means.mean(axis=1)
        return mean

    @override
    def describe(self, state: Pull, params: BanditParams) -> str:
        arms = enumerate(params.means[0].tolist())
        return " ".join(f"[{mean:.2f}]" if arm == state.arm[0] else f" {mean:.2f} " for arm, mean in arms) + "\n"

    @override
    def draw(self, state: Pull, params: BanditParams) -> Array:
        height, base, width = 320, 280, 480
        low, high = (0.0, 1.0) if self.reward == "bernoulli" else (-1.0, 2.0)
        scale = 240 / (high - low)
        zero = base + low * scale
        image = canvas(height, width)
        for level in np.linspace(low, high, 4 if low else 3):
            draw_line(image, 44, zero - level * scale, width - 16, zero - level * scale, "grid", thickness=1)
            draw_text(image, f"{level:.1f}", 12, int(zero - level * scale) - 3)
        pitch = (width - 68) / self.num_arms
        for arm, mean in enumerate(params.means[0].tolist()):
            x, top = 48 + (arm + 0.1) * pitch, zero - max(mean, 0.0) * scale
            color = "agent" if arm == state.arm[0] else "blue"
            fill_rect(image, x, top, 0.8 * pitch, max(abs(mean) * scale, 1.0), color)
            if pitch >= 14:
                draw_text(image, str(arm), int(x + 0.4 * pitch) - 3 * len(str(arm)), base + 12)
        return image


def _normal_quantile(uniform: Float) -> Float:
    # Imported where it is used: scipy.special would treble the time that `gymnasium.make` takes for other families.
    from scipy.special import ndtri

    quantile: Float = ndtri(np.maximum(uniform, _SMALLEST))
    return quantile
