"""Pretraining: python -m pretrain.main --config=configs/cc4m.py --workdir=runs/cc4m"""

import sys

from ivt_jax.config import parse_command_line
from ivt_jax.errors import run

USAGE = "python -m pretrain.main --config=configs/cc4m.py --workdir=runs/cc4m"


def main(argv: list[str]) -> int:
    """Checks the command line before anything heavy is imported, then trains or compiles."""
    config, workdir, machine, place = parse_command_line(argv, usage=USAGE)
    from pretrain.objective import VIEWS, make_objective

    if machine:
        from ivt_jax.training.dry_run import dry_run

        dry_run(config, machine, make_objective=make_objective, views=VIEWS)
        return 0
    from ivt_jax.prepare import ensure_embedded
    from ivt_jax.training.cluster import is_first, joined, together
    from ivt_jax.training.loop import train

    with joined(place):
        with together("datasets"):
            if is_first():
                names = [*config.data.mixture, config.evaluation.dataset]
                ensure_embedded(config.data.directory, names)
        train(config, workdir, make_objective=make_objective, views=VIEWS)
    print(f"next: fine-tune from it with --config.init.run={workdir}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
