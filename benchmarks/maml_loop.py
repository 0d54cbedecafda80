"""MAML with TRPO as a loop over tasks, in the style of learn2learn's and pytorch-maml-rl's examples.

Every task has Gymnasium's `SyncVectorEnv` of scalar envs, is played, adapted to and differentiated by itself, with
PyTorch's distributions, and the outer step adds the tasks up. The mathematics are those of `metagym.algos.MAML`.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.func import functional_call

__all__ = ["Episodes", "TaskLoop"]

DISCOUNT, TARGET_KL, DAMPING, CG_STEPS, TRIES, SHRINKING = 0.99, 0.01, 1e-2, 10, 15, 0.8
Parameters = dict[str, th.Tensor]


class Actor(nn.Module):
    """A Gaussian policy."""

    def __init__(self, num_inputs: int, num_actions: int, width: int, scale: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_actions)
        )
        self.log_std = nn.Parameter(th.full((num_actions,), float(np.log(scale))))

    def forward(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Means and standard deviations."""
        return self.net(observations), self.log_std.exp()


class Episodes:
    """What one task's policy lived through: observations (T, n, D), actions, advantages, and the distribution then."""

    def __init__(self, observations: th.Tensor, actions: th.Tensor, advantages: th.Tensor, then: Independent) -> None:
        self.observations, self.actions, self.advantages, self.then = observations, actions, advantages, then
        self.log_probs = then.log_prob(actions)


class TaskLoop:
    """One learner.

    Args:
        env_id: of a family with Box actions whose episodes last their whole length.
        num_tasks: tasks of an iteration.
        num_rows: episodes of each.
        num_steps: of an episode.
        width: of the policy's two layers.
        rate: size of an inner step.
        thinning: the Hessian is that of one of so many episodes.
    """

    def __init__(
        self, env_id: str, *, num_tasks: int, num_rows: int, num_steps: int, width: int = 100, rate: float = 0.1,
        thinning: int = 1,
    ) -> None:  # fmt: skip
        makes = [lambda: gym.make(env_id, episode_length=num_steps)] * num_rows
        self.envs = [SyncVectorEnv(makes, autoreset_mode=AutoresetMode.SAME_STEP) for _ in range(num_tasks)]
        space: Any = self.envs[0].single_action_space
        self.scale = float(space.high[0])
        self.actor = Actor(self.envs[0].single_observation_space.shape[0], space.shape[0], width, self.scale)
        self.num_steps, self.rate, self.thinning = num_steps, rate, thinning

    def iterate(self) -> tuple[float, float]:
        """One iteration; mean returns before and after the inner step."""
        before, after, returns = self.play()
        self._outer_step(dict(self.actor.named_parameters()), before, after)
        means = np.mean(returns, axis=0)
        return float(means[0]), float(means[1])

    def play(self) -> tuple[list[Episodes], list[Episodes], list[tuple[float, float]]]:
        """Episodes before and after the inner step on new tasks, and their mean returns."""
        theta = dict(self.actor.named_parameters())
        before, after, returns = [], [], []
        for env in self.envs:
            task = env.envs[0].unwrapped.sample_task()
            env.set_attr("task", [task] * env.num_envs)
            first, first_return = self._play(env, theta)
            second, second_return = self._play(env, self._adapted(theta, first, create_graph=False))
            before.append(first)
            after.append(second)
            returns.append((first_return, second_return))
        return before, after, returns

    def _distribution(self, parameters: Parameters, observations: th.Tensor) -> Independent:
        means, stds = functional_call(self.actor, parameters, (observations,))
        return Independent(Normal(means, stds.expand_as(means)), 1)

    def _play(self, env: SyncVectorEnv, parameters: Parameters) -> tuple[Episodes, float]:
        observation, _ = env.reset()
        observations, actions, rewards = [], [], []
        for _ in range(self.num_steps):
            seen = th.as_tensor(observation)
            with th.no_grad():
                action = self._distribution(parameters, seen).sample()
            observations.append(seen)
            actions.append(action)
            observation, reward, *_ = env.step(np.clip(action.numpy(), -self.scale, self.scale))
            rewards.append(reward)
        return self._episodes(parameters, th.stack(observations), th.stack(actions), np.stack(rewards))

    def _episodes(
        self, parameters: Parameters, observations: th.Tensor, actions: th.Tensor, rewards: Any
    ) -> tuple[Episodes, float]:
        returns = np.zeros_like(rewards)
        running = np.zeros(rewards.shape[1])
        for step in reversed(range(len(rewards))):
            running = returns[step] = rewards[step] + DISCOUNT * running
        time = np.broadcast_to(np.arange(len(rewards))[:, None, None] / 100, (*rewards.shape, 1))
        seen = observations.numpy().astype(np.float64)
        features = np.concatenate([seen, seen**2, time, time**2, time**3, np.ones_like(time)], axis=-1)
        flat = features.reshape(-1, features.shape[-1])
        square = flat.T @ flat + 1e-5 * np.eye(flat.shape[1])
        advantages = returns - features @ np.linalg.solve(square, flat.T @ returns.ravel())
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        with th.no_grad():
            then = self._distribution(parameters, observations)
        episodes = Episodes(observations, actions, th.as_tensor(advantages, dtype=th.float32), then)
        return episodes, float(rewards.sum(0).mean())

    def _adapted(self, theta: Parameters, episodes: Episodes, *, create_graph: bool, thin: int = 1) -> Parameters:
        log_probs = self._distribution(theta, episodes.observations[:, ::thin]).log_prob(episodes.actions[:, ::thin])
        loss = -(log_probs * episodes.advantages[:, ::thin]).mean()
        slopes = th.autograd.grad(loss, list(theta.values()), create_graph=create_graph)
        pairs = zip(theta.items(), slopes, strict=True)
        return {name: tensor - self._rate_of(name) * slope for (name, tensor), slope in pairs}

    def _rate_of(self, name: str) -> float:
        return self.rate * self.scale**2 if name.startswith("net.4") else self.rate

    def _loss(
        self, theta: Parameters, before: list[Episodes], after: list[Episodes], *, create_graph: bool
    ) -> tuple[th.Tensor, th.Tensor]:
        """The outer loss and the divergence of adapted policies, means over tasks."""
        losses, divergences = [], []
        for first, second in zip(before, after, strict=True):
            now = self._distribution(self._adapted(theta, first, create_graph=create_graph), second.observations)
            ratios = (now.log_prob(second.actions) - second.log_probs).exp()
            losses.append(-(ratios * second.advantages).mean())
            divergences.append(kl_divergence(second.then, now).mean())
        return th.stack(losses).mean(), th.stack(divergences).mean()

    def _curvature(self, theta: Parameters, before: list[Episodes], after: list[Episodes]) -> th.Tensor:
        divergences = []
        for first, second in zip(before, after, strict=True):
            adapted = self._adapted(theta, first, create_graph=True, thin=self.thinning)
            now = self._distribution(adapted, second.observations[:, :: self.thinning])
            normal: Any = now.base_dist
            then = Independent(Normal(normal.loc.detach(), normal.scale.detach()), 1)
            divergences.append(kl_divergence(then, now).mean())
        return th.stack(divergences).mean()

    def _outer_step(self, theta: Parameters, before: list[Episodes], after: list[Episodes]) -> None:
        leaves = list(theta.values())
        loss, _ = self._loss(theta, before, after, create_graph=True)
        gradient = _flat(th.autograd.grad(loss, leaves))
        slope = _flat(th.autograd.grad(self._curvature(theta, before, after), leaves, create_graph=True))

        def curved(vector: th.Tensor) -> th.Tensor:
            return _flat(th.autograd.grad(slope @ vector, leaves, retain_graph=True)) + DAMPING * vector

        direction, residual = th.zeros_like(gradient), gradient.clone()
        way, square = residual.clone(), residual @ residual
        for _ in range(CG_STEPS):
            image = curved(way)
            length = square / (way @ image)
            direction, residual = direction + length * way, residual - length * image
            square, previous = residual @ residual, square
            way = residual + square / previous * way
        reach = direction * th.sqrt(2 * TARGET_KL / (direction @ curved(direction)))
        for tries in range(TRIES):
            moved = self._moved(theta, reach * SHRINKING**tries)
            new_loss, divergence = self._loss(moved, before, after, create_graph=False)
            if new_loss.item() < loss.item() and divergence.item() <= TARGET_KL:
                with th.no_grad():
                    for name, tensor in theta.items():
                        tensor.copy_(moved[name])
                return

    def _moved(self, theta: Parameters, shift: th.Tensor) -> Parameters:
        parts = shift.split([tensor.numel() for tensor in theta.values()])
        return {
            name: (tensor.detach() - part.view_as(tensor)).requires_grad_()
            for (name, tensor), part in zip(theta.items(), parts, strict=True)
        }  # fmt: skip


def _flat(tensors: Any) -> th.Tensor:
    return th.cat([tensor.reshape(-1) for tensor in tensors])
