"""Pretraining: python -m pretrain.main --config=configs/cc4m.py --workdir=runs/cc4m"""

import sys

from ivt_jax.config import parse_command_line
from ivt_jax.errors import end, run

USAGE = "python -m pretrain.main --config=configs/cc4m.py --workdir=runs/cc4m"


def main(argv: list[str]) -> int:
    """Checks the command line before anything heavy is imported, then trains or compiles."""
    command = parse_command_line(argv, usage=USAGE)
    from ivt_jax.launch import launch
    from pretrain.objective import VIEWS, make_objective

    views = VIEWS
    if launch(command, make_objective=make_objective, views=views):
        print(f"next: fine-tune from it with --config.init.run={command.workdir}")
    return 0


if __name__ == "__main__":
    end(run(main, sys.argv[1:]))
