"""Fine-tuning: python -m finetune.main --config=configs/cuhk_pedes.py --workdir=runs/cuhk"""

import sys

from ivt_jax.config import parse_command_line
from ivt_jax.errors import run

USAGE = "python -m finetune.main --config=configs/cuhk_pedes.py --workdir=runs/cuhk"


def main(argv: list[str]) -> int:
    """Checks the command line before anything heavy is imported, then trains or compiles."""
    config, workdir, machine, place = parse_command_line(argv, usage=USAGE)
    from finetune.objective import VIEWS, make_objective

    views = VIEWS[config.objective.levels]
    if machine:
        from ivt_jax.training.dry_run import dry_run

        dry_run(config, machine, make_objective=make_objective, views=views)
        return 0
    from ivt_jax.prepare import ensure_embedded
    from ivt_jax.training.cluster import is_first, joined, together
    from ivt_jax.training.loop import train

    with joined(place):
        with together("datasets"):
            if is_first():
                names = [*config.data.mixture, config.evaluation.dataset]
                ensure_embedded(config.data.directory, names)
        train(config, workdir, make_objective=make_objective, views=views)
    print(f"next: python -m ivt_jax evaluate --run={workdir} --split=test")
    return 0


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
