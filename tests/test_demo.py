"""What the demo draws itself."""

import json

from ivt_jax.demo import _val_chart
from ivt_jax.retrieval.canvas import SERIES, Line, Text


def test_the_chart_has_a_line_for_each_run_and_skips_training_lines(tmp_path):
    scores = {"finetune": [10.0, 30.0, 50.0], "scratch": [5.0, 20.0, 40.0]}
    for run, values in scores.items():
        lines = [{"step": 0, "kind": "train", "loss": 9.0}]
        lines += [{"step": 20 * i, "kind": "val", "R1": value} for i, value in enumerate(values, 1)]
        (tmp_path / run).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / run / "metrics.jsonl").write_text(text)
    shapes = _val_chart(tmp_path).shapes
    texts = {shape.text for shape in shapes if isinstance(shape, Text)}
    assert {"with pretraining", "without pretraining"} <= texts
    drawn = [shape for shape in shapes if isinstance(shape, Line) and shape.color in SERIES[:2]]
    first, second = (line.points for line in drawn)
    assert [x for x, _ in first] == [x for x, _ in second] and len(first) == 3
    assert all(above < below for (_, above), (_, below) in zip(first, second, strict=True))
