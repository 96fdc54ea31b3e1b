"""The one front door, `python -m ivt_jax <command>`: imports only the command that is called."""

import difflib
import sys

import ivt_jax
from ivt_jax.errors import UserError, run

COMMANDS = {
    "demo": "train on drawn pedestrians for some minutes and search them; needs no data",
    "doctor": "check this machine and this installation, with a cure for every fault",
    "prepare": "turn a downloaded dataset into the files that training reads",
    "verify": "read all of a prepared dataset, or the checkpoints of --run, and find damage",
    "goodput": "tell where the time of a run went, restarts included",
    "evaluate": "score a run on a dataset: R1, R5, R10, mAP, mINP",
    "figures": "draw a run: rankings, heat maps, curves, errors, as PNG and SVG",
    "report": "write all about a run into one HTML file",
    "index": "encode a folder of photos into a gallery, or what changed in it",
    "search": "find photos of a gallery by a sentence or an example",
    "serve": "search a gallery in the browser, on this machine",
    "export": "write a trained model for other libraries: PyTorch, ONNX, the official code",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code (errors.py lists them)."""
    return run(_dispatch, sys.argv[1:] if argv is None else argv)


def _dispatch(argv: list[str]) -> int | None:
    name, *rest = argv or ["--help"]
    match name:
        case "demo":
            from ivt_jax.demo import main as command
        case "doctor":
            from ivt_jax.doctor import main as command
        case "prepare":
            from ivt_jax.prepare import main as command
        case "verify" if any(option.startswith("--run") for option in rest):
            from ivt_jax.verify_run import main as command
        case "verify":
            from ivt_jax.verify import main as command
        case "goodput":
            from ivt_jax.goodput import main as command
        case "evaluate":
            from ivt_jax.evaluate import main as command
        case "figures":
            from ivt_jax.figures import main as command
        case "report":
            from ivt_jax.report import main as command
        case "index":
            from ivt_jax.index import main as command
        case "search":
            from ivt_jax.search import main as command
        case "serve":
            from ivt_jax.retrieval.page.server import main as command
        case "export":
            from ivt_jax.export import main as command
        case "--help" | "-h" | "help":
            print(_help())
            return 0
        case "--version":
            print(f"ivt_jax {ivt_jax.__version__}")
            return 0
        case _:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}."
            raise UserError(f"there is no command {name!r}; {hint}")
    return command(rest)


def _help() -> str:
    rows = [f"  {name:<10}{sentence}" for name, sentence in COMMANDS.items()]
    return "\n".join(
        [
            "python -m ivt_jax COMMAND [--help | options]",
            "",
            *rows,
            "",
            "Training: python -m pretrain.main --help, python -m finetune.main --help",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
