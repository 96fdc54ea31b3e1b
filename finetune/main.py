"""Fine-tuning: python -m finetune.main --config=configs/cuhk_pedes.py --workdir=runs/cuhk"""

import sys

from ivt_jax.config import parse_command_line
from ivt_jax.errors import end, run

USAGE = "python -m finetune.main --config=configs/cuhk_pedes.py --workdir=runs/cuhk"


def main(argv: list[str]) -> int:
    """Checks the command line before anything heavy is imported, then trains or compiles."""
    command = parse_command_line(argv, usage=USAGE)
    from finetune.objective import make_objective, views_of
    from ivt_jax.launch import launch

    views = views_of(command.config)
    if launch(command, make_objective=make_objective, views=views):
        print(f"next: python -m ivt_jax evaluate --run={command.workdir} --split=test")
    return 0


if __name__ == "__main__":
    end(run(main, sys.argv[1:]))
