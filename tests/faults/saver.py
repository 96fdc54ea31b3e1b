"""A process that only saves: `python saver.py WORKDIR STEP ...`; the states of test_checkpoint."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

if __name__ == "__main__":
    from test_checkpoint import fresh_state

    from ivt_jax.training.checkpoint import Checkpoints

    with Checkpoints(Path(sys.argv[1]), keep=1) as checkpoints:
        for step in map(int, sys.argv[2:]):
            checkpoints.save(fresh_state(step), metrics={})
            checkpoints.wait()
