"""The model card: what it tells of the run, what it keeps to itself, and that its code runs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import folder, people, python_without, run, scored  # noqa: F401  (fixtures)

import ivt_jax
from configs import base
from ivt_jax.convert.card import model_card, public_config
from ivt_jax.convert.folder import SUMS

ROOT = Path(ivt_jax.__file__).parent.parent


def test_the_card_tells_results_misuse_and_no_local_path(folder, run, people, scored):
    card = (folder / "README.md").read_text()
    row = "| synthetic_people | test | {queries} | {gallery} | {identities} |".format(**scored)
    assert row in card and f"| {scored['metrics']['mAP']:.2f} |" in card
    assert scored["protocol"] in card and "## Misuse" in card and "model.width: 768 -> 32" in card
    for name in ("README.md", "config.json", "training.json", SUMS):
        text = (folder / name).read_text()
        assert str(people) not in text and str(run) not in text, name


def card_of(config, **changes):
    facts: dict[str, Any] = {"earlier": [], "step": 1, "choice": "", "parameters": 2}
    facts.update(dtype="float32", results=[], usage="", made_with="")
    facts.update(changes)
    return model_card("x", config=config, **facts)


def test_the_card_tells_weights_it_began_with_and_not_where_they_lay():
    config = base.get_config()
    config.init.update(vit="/private/vit", bert="/private/bert")
    card = card_of(config)
    assert "Started from the weights of a ViT and a BERT." in card
    assert "/private" not in card + public_config(config)


def test_the_card_tells_the_runs_before_and_what_was_drawn():
    first, last = base.get_config(), base.get_config()
    first.data.mixture = {"cc3m": 1.0}
    last.init.run = "/private/first"
    card = card_of(last, earlier=[first])
    assert "1. Trained for 120 epochs of 112 pairs on cc3m (weight 1; Conceptual Captions" in card
    assert "2. Trained for 120 epochs of 112 pairs on synthetic_people (" in card
    assert "Started from random weights." in card and "Started from that." in card
    assert "saw drawings, not photos" in card and "/private" not in card
    assert "saw drawings, not photos" not in card_of(first)
    assert "Started from the weights of another run." in card_of(last)


def test_the_card_warns_of_scores_that_flatter(scored):
    config = base.get_config()
    config.evaluation.update(dataset="synthetic_people", select="test")
    card = card_of(config, results=[scored | {"unmatched": "skip", "truncated": 2}])
    for note in (
        "synthetic_people test: it also chose the best step, so these scores flatter.",
        "synthetic_people test: captions of people without a photo were left out.",
        f"2 of {scored['queries']} captions were longer than 100 tokens and cut.",
        "Scored in bfloat16; this folder computes in float32.",
    ):
        assert note in card
    config.evaluation.select = "val"
    assert "flatter" not in card_of(config, results=[scored])


def test_the_code_of_the_card_runs(folder, tmp_path):
    """The three ways to load, as they stand there, in a copy of the folder."""
    pytest.importorskip("transformers")
    shutil.copytree(folder, copy := tmp_path / "model")
    photos = sorted((copy / "test" / "images").iterdir())
    for name, photo in zip(("a.jpg", "b.jpg"), photos[:2], strict=True):
        photo.rename(copy / name)
    blocks = (copy / "README.md").read_text().split("```python\n")[1:]
    code = "\n".join(block.partition("```")[0] for block in blocks)
    start = f"import os, sys; sys.path.append({str(ROOT)!r}); "
    start += "os.environ['HF_HOME'] = os.getcwd(); os.chdir('model')\n"
    done = python_without(tmp_path, (), "-c", start + code)
    assert len(blocks) == 3 and done.returncode == 0, done.stderr
    first, second = done.stdout.split("\n[")
    in_pytorch, in_jax = (np.fromstring(text.strip("[]\n"), sep=" ") for text in (first, second))
    assert in_pytorch.shape == (2,)
    np.testing.assert_allclose(in_pytorch, in_jax, atol=1e-5)
