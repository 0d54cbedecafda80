"""Learners: each an algorithm of Stable-Baselines3 to its user, on tasks instead of one environment."""

from metagym.algos.bandit_agents import (
    UCB1,
    EpsilonGreedyBandit,
    GreedyBandit,
    OptimisticThompsonSampling,
    ThompsonSampling,
)
from metagym.algos.base import GradientLearner, MemoryLearner, Policy
from metagym.algos.from_scratch import FromScratch
from metagym.algos.gittins import Gittins
from metagym.algos.joint_training import JointTraining
from metagym.algos.maml import FOMAML, MAML
from metagym.algos.maml_emaml import EMAML
from metagym.algos.maml_meta_sgd import MetaSGD
from metagym.algos.maml_probabilistic import ProbabilisticMAML
from metagym.algos.maml_promp import ProMP
from metagym.algos.mdp_agents import BEB, OPSRL, PSRL, UCRL2, EpsilonGreedyMDP, GreedyMDP, QLearning
from metagym.algos.optimal import Optimal
from metagym.algos.references import Random
from metagym.algos.reptile import Reptile
from metagym.algos.revealed_task import RevealedTask
from metagym.algos.rl2 import RL2

__all__ = [
    "BEB", "EMAML", "FOMAML", "MAML", "OPSRL", "PSRL", "RL2", "UCB1", "UCRL2", "EpsilonGreedyBandit",
    "EpsilonGreedyMDP", "FromScratch", "Gittins", "GradientLearner", "GreedyBandit", "GreedyMDP", "JointTraining",
    "MemoryLearner", "MetaSGD", "Optimal", "OptimisticThompsonSampling", "Policy", "ProMP", "ProbabilisticMAML",
    "QLearning", "Random", "Reptile", "RevealedTask", "ThompsonSampling",
]  # fmt: skip
