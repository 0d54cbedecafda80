"""``python -m metagym.zoo --algo rl2 --env MetaBandit-v0``: RL Zoo's training command with metagym's learners."""

from metagym.zoo.registration import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
