"""What a run tells of bad images, and of a damaged configuration."""

import json
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ivt_jax.errors import UserError
from ivt_jax.training.checkpoint import read_config
from ivt_jax.training.setup import Data


def test_a_bad_image_is_listed_once_with_its_reason(tmp_path):
    entries = SimpleNamespace(source=[{}, {"key": "a.jpg", "image": b"no photo"}])
    data = Data(cast(Any, [entries]), [1.0], *cast(Any, [None] * 3), names=["cc3m"])
    file, said = tmp_path / "substituted.jsonl", []
    for _ in range(2):
        batch = {"substituted": np.array([[0, 0], [1, 1]]), "truncated": np.array([2, 1])}
        assert data.report(batch, file, said.append) == 3
        assert not batch
    line = json.loads(file.read_text())
    assert (line["dataset"], line["key"], line["reason"]) == ("cc3m", "a.jpg", "not-an-image")
    assert "no photo" in line["detail"] and len(said) == 1


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_configuration_is_named_with_a_cure(tmp_path, text):
    with pytest.raises(UserError, match="name the --workdir"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json is damaged .*put back a copy"):
        read_config(tmp_path)
