"""`python -m ivt_jax goodput RUN`: where the time of a run went, as a table and a picture."""

import argparse
from pathlib import Path

from ivt_jax.errors import UserError
from ivt_jax.training.goodput import BUCKETS, FILE, Line, read_goodput, totals

# Bucket -> colour, for kinds of time that are alike the same one.
_COLORS = {
    "step": "right",
    "wasted": "wrong",
    "gap": "rule",
    "start": "#8d99a6",
    "prepare": "#626b75",
    "compile": "#a87400",
    "restore": "#a8447f",
    "save": "#d58bb8",
    "data": "#c94f00",
    "evaluate": "#0067a8",
    "other": "ink",
}


def main(argv: list[str]) -> int:
    """Prints the table and writes the picture; exit code 2 for a folder without a record."""
    parser = argparse.ArgumentParser(
        prog="python -m ivt_jax goodput", description="Where the time of a run went."
    )
    parser.add_argument("run", type=Path, help="the --workdir of a training")
    parser.add_argument("--out", type=Path, help="the picture; RUN/goodput.png without it")
    options = parser.parse_args(argv)
    if not (options.run / FILE).is_file():
        raise UserError(f"{options.run} holds no {FILE}; name the --workdir of a training")
    lines = read_goodput(options.run)
    if not lines:
        raise UserError(f"{options.run / FILE} holds no whole line; the run had not begun")
    print(table(lines))
    out = options.out or options.run / "goodput.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    picture(lines, title=f"Where the time of {options.run.resolve().name} went").save(out)
    print(f"\npicture: {out}")
    return 0


def table(lines: list[Line]) -> str:
    """Buckets with their seconds and share of the wall time, largest first."""
    found = totals(lines)
    wall = lines[-1].ended - lines[0].began
    rows = [
        f"{bucket:<10}{seconds:>12,.1f}{100 * seconds / max(wall, 1e-9):>8.1f} %  {BUCKETS[bucket]}"
        for bucket, seconds in sorted(found.items(), key=lambda pair: -pair[1])
        if seconds
    ]
    processes = lines[-1].process
    return "\n".join(
        [
            f"{'bucket':<10}{'seconds':>12}{'share':>10}",
            *rows,
            f"{'sum':<10}{sum(found.values()):>12,.1f}",
            f"{'wall time':<10}{wall:>12,.1f}",
            "",
            f"goodput {100 * found['step'] / max(wall, 1e-9):.1f} % at step {lines[-1].step}, "
            f"{processes} process{'es' * (processes != 1)} one after the other",
        ]
    )


def picture(lines: list[Line], *, title: str):
    """A timeline of all processes: each a bar, cut by the shares of its lines."""
    return timeline_of(lines, title=title).finish("light")


def timeline_of(lines: list[Line], *, title: str, width: int = 1000):
    """The same before it is painted: a Canvas."""
    from ivt_jax.retrieval.figures import timeline

    zero, spans = lines[0].began, {}
    unit, name = (3600, "hours") if lines[-1].ended - zero > 7200 else (60, "minutes")
    for line in lines:
        time = line.began
        for bucket in sorted(line.seconds, key=list(BUCKETS).index):
            end = time + line.seconds[bucket]
            span = ((time - zero) / unit, (end - zero) / unit, bucket)
            spans.setdefault(line.process, []).append(span)
            time = end
    found, least = totals(lines), 1e-3 * (lines[-1].ended - zero)
    used = {bucket: color for bucket, color in _COLORS.items() if found[bucket] > least}
    rows = [
        (f"process {number}", [span for span in found if span[2] in used])
        for number, found in spans.items()
    ]
    label = f"{name} since the run began"
    return timeline(rows, used, title=title, x_label=label, width=width)
