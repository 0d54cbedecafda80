"""Families of simulated bodies, on Gymnasium's MuJoCo models; they need ``pip install "metagym-rl[mujoco]"``."""
