"""What a checked command line of either stage starts: a training, or a dry run of its step."""

from collections.abc import Callable

from ivt_jax.config import Command


def launch(command: Command, *, make_objective: Callable, views: tuple[str, ...]) -> bool:
    """Trains among the processes of the run, or compiles for `command.dry_run`.

    Embedded datasets that are missing are drawn first, by one process. Returns whether it trained;
    `training.loop.train` says what the arguments mean and what is raised.
    """
    config = command.config
    if command.dry_run:
        from ivt_jax.training.dry_run import dry_run

        dry_run(config, command.dry_run, make_objective=make_objective, views=views)
        return False
    from ivt_jax.prepare import ensure_embedded
    from ivt_jax.training.cluster import is_first, joined, together
    from ivt_jax.training.loop import train

    with joined(command.place):
        with together("datasets"):
            if is_first():
                names = [*config.data.mixture, config.evaluation.dataset]
                ensure_embedded(config.data.directory, names)
        train(config, command.workdir, make_objective=make_objective, views=views)
    return True
