"""Training runs: what is asked for, and folders that hold configuration, checkpoints, progress and the agent."""

from metagym.runs.config import ALGOS, RunConfig, accepted_keywords, learner_type, replace_timesteps
from metagym.runs.players import REFERENCES, Players, env_of, load_agent, method_of, reference
from metagym.runs.training import make_folder, read_progress, steps_taken, train

__all__ = [
    "ALGOS", "REFERENCES", "Players", "RunConfig", "accepted_keywords", "env_of", "learner_type", "load_agent",
    "make_folder", "method_of", "read_progress", "reference", "replace_timesteps", "steps_taken", "train",
]  # fmt: skip
