"""Worker processes: two play the tasks of an iteration, with the same result to the bit as one."""

import argparse
import time

import torch as th

from metagym.algos import Reptile

if __name__ == "__main__":  # workers import this script
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of each meta-training")
    steps = parser.parse_args().steps
    th.set_num_threads(1)  # as in the workers: other threads add up in another order
    found = []
    for n_workers in (1, 2):
        agent = Reptile(
            "MlpPolicy", "MetaPointGoal-v0", meta_batch_size=2, inner_timesteps=800, n_workers=n_workers, seed=0
        )
        before = time.perf_counter()
        found.append(agent.learn(steps).policy.state_dict())
        print(f"{n_workers} process(es): {time.perf_counter() - before:.1f} s")
    print("equal to the bit:", all(th.equal(found[0][name], found[1][name]) for name in found[0]))
