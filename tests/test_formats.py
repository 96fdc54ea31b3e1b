"""Every form of data that `prepare` reads, from files in that form to a step of training."""

import dataclasses
import functools
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_readers_archives as archives
import test_readers_captions as captions
import test_readers_own as own
import test_readers_person as person
from tiny import CONFIG

import finetune.objective
import pretrain.objective
from configs import cc4m, cuhk_pedes
from ivt_jax.data.builders.caption_pairs import FILES
from ivt_jax.data.texts import LEVELS, SPECIAL_TOKENS
from ivt_jax.prepare import prepare
from ivt_jax.training.setup import open_data
from ivt_jax.training.sharding import path_name
from ivt_jax.training.state import TrainState, make_step, random_params, split_model

# Letters alone, so that every caption of the fixtures can be written without [UNK].
LETTERS = string.ascii_lowercase + string.digits
VOCABULARY = [*SPECIAL_TOKENS, *LETTERS, *(f"##{c}" for c in LETTERS), *string.punctuation]
MODEL = dataclasses.replace(CONFIG, vocabulary_size=len(VOCABULARY), max_text_positions=48)
OPTIMIZER = optax.sgd(1e-2)
KEY = jax.random.key(0)
# Stage -> its configuration file, its objective and the views of a sample.
STAGES = {
    "pretrain": (cc4m, pretrain.objective.make_objective, pretrain.objective.VIEWS),
    "finetune": (cuhk_pedes, finetune.objective.make_objective, LEVELS),
}


def tsv(folder):
    """CC3M as published, the images as the ViLBERT script saves them; row 3 is a dead link."""
    urls = captions.urls(6)
    lines = "".join(f"a red bus {n} é\t{url}\n" for n, url in enumerate(urls))
    captions.write(folder / "Train_GCC-training.tsv", lines.encode())
    for n in (0, 1, 2, 4, 5):
        name = captions.NAME_RULES["crc"](n, urls[n])
        captions.write(folder / name, captions.photo(n))


def shared_list(folder, name):
    """One image named from the list's folder, one by its whole path, with a list of captions."""
    content = [
        {"image": "images/0.jpg", "caption": "a red bus"},
        {"image": str(folder / "images" / "1.jpg"), "caption": ["a street", "two dogs"]},
    ]
    captions.write(folder / FILES[name][0], json.dumps(content).encode())
    own.photos(folder / "images", 2)


def sidecars(folder):
    own.photos(folder, 2)
    captions.write(folder / "b" / "2.PNG", captions.photo(2))
    for name, text in {"0": "a red bus é\n", "1": "a dog\r\ntwo dogs\r\n", "b/2": "a man"}.items():
        captions.write(folder / f"{name}.txt", text.encode())


def table(folder, form):
    own.photos(folder / "images")
    own.write_table(folder / f"mine.{form}", own.ROWS)


Counts = dict[str, tuple[int, int, int]]


@dataclasses.dataclass(frozen=True)
class Form:
    """What to write, and how many (records, captions, identities) `prepare` must find in it."""

    name: str
    write: Callable[[Path], Any]
    counts: Counts
    source: str = ""  # inside the folder
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    images: str = ""
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    word_level: str = "words"


def each_one(**images) -> Counts:
    """The counts of splits of so many images, each with one caption and an identity of its own."""
    return {split: (count, count, count) for split, count in images.items()}


def coco(year, prefix):
    write = functools.partial(captions.coco_official, year=year, prefix=prefix)
    return Form("coco", write, {"train": (2, 4, 2), "val": (1, 2, 1)})


def vg(regions, counts, left_out):
    options = {"regions": regions, "bad_share": 1.0}  # the fixture has faults on purpose
    return Form("vg", captions.visual_genome, counts, options=options, left_out=left_out)


def own_table(form):
    counts = {"train": (3, 4, 2), "test": (1, 1, 1)}
    write = functools.partial(table, form=form)
    options = {"dataset": "mine"}
    return Form("table", write, counts, source=f"mine.{form}", images="images", options=options)


IMG2DATASET = {
    "tars": (archives.three_tars, each_one(train=12)),
    "files": (archives.two_file_shards, each_one(train=6)),
    "parquet": (archives.two_parquet_files, each_one(train=9)),
}
OF_RSTPREID = {"train": (2, 4, 1), "val": (2, 4, 1), "test": (2, 4, 1)}
OF_CUHK_PEDES = {"train": (3, 8, 2), "val": (1, 2, 1), "test": (2, 5, 2)}
FORMS = {
    **{f"{n} {form}": Form(n, *IMG2DATASET[form]) for n in ("cc3m", "sbu") for form in IMG2DATASET},
    **{
        f"{name} list": Form(name, functools.partial(shared_list, name=name), {"train": (2, 3, 2)})
        for name in FILES
    },
    "cc3m tsv": Form("cc3m", tsv, each_one(train=5)),
    "sbu text": Form("sbu", functools.partial(captions.sbu_source, form="text"), each_one(train=3)),
    "sbu json": Form("sbu", functools.partial(captions.sbu_source, form="json"), each_one(train=3)),
    "coco 2014": coco(2014, "COCO_{split}2014_"),
    "coco 2017": coco(2017, ""),
    "coco karpathy": Form("coco", captions.karpathy, each_one(train=2, val=1, test=2)),
    "vg image": vg("image", {"train": (2, 5, 2)}, {"bad-row": 1}),
    "vg crop": vg("crop", each_one(train=3), {"bad-box": 2, "bad-row": 1}),
    **{
        f"cuhk_pedes {name}": Form(
            "cuhk_pedes", functools.partial(person.cuhk_pedes, name=name), OF_CUHK_PEDES
        )
        for name in ("reid_raw.json", "caption_all.json")
    },
    "cuhk_pedes processed": Form(
        *("cuhk_pedes", person.processed_cuhk_pedes, {"train": (1, 3, 1)}), word_level="official"
    ),
    "icfg_pedes": Form("icfg_pedes", person.icfg_pedes, {"train": (2, 3, 2), "test": (1, 1, 1)}),
    "icfg_pedes processed": Form(
        "icfg_pedes", person.processed_icfg_pedes, each_one(train=1, test=1)
    ),
    "rstpreid": Form("rstpreid", person.rstpreid, OF_RSTPREID),
    "rstpreid processed": Form(
        "rstpreid", person.processed_rstpreid, {split: (1, 2, 1) for split in OF_RSTPREID}
    ),
    "folder": Form("folder", sidecars, {"train": (3, 4, 3)}, options={"dataset": "mine"}),
    "table csv": own_table("csv"),
    "table jsonl": own_table("jsonl"),
}


def prepared(form, folder):
    """The manifest of the form's files, prepared below `folder`."""
    form.write(folder / "source")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(VOCABULARY) + "\n")
    (manifest,) = prepare(
        form.name,
        source=folder / "source" / form.source,
        images=folder / "source" / form.images if form.images else None,
        out=folder / "out",
        vocabulary=vocabulary,
        workers=1,
        **form.options,
    ).values()
    return manifest


def run_config(stage, form, *, directory, dataset):
    """What one would train with, in a batch of four small images."""
    config = STAGES[stage][0].get_config()
    config.data.directory = str(directory)
    config.data.mixture = {dataset: 1.0}
    config.data.word_level = form.word_level
    config.data.text_length = MODEL.max_text_positions
    config.model.image_size = MODEL.image_size
    config.evaluation.dataset = ""
    config.training.batch_size = 4
    return config


@functools.cache
def training(stage):
    """The views of a stage, a fresh state and its jitted step, made once for all forms."""
    file, make_objective, views = STAGES[stage]
    config = file.get_config()
    masking = config.masking.to_dict()
    objective = make_objective(
        views=views, erase=config.data.erase, masking=masking, **config.objective
    )
    params = jax.jit(functools.partial(random_params, MODEL))(KEY)
    state = TrainState(jnp.zeros((), jnp.int32), params, OPTIMIZER.init(params))
    return views, state, jax.jit(make_step(objective, split_model(MODEL)[0], OPTIMIZER))


def assert_texts(data, batch):
    """The sentences are captions of the records, and the words are not just the sentences."""
    source = data.datasets[0].source
    texts = [text.lower() for i in range(len(source)) for text in source[i]["captions"]]
    known, _, _ = data.tokenizer.encode(texts, length=data.options.text_length)
    assert {row.tobytes() for row in batch["token_ids"][:, -1]} <= {row.tobytes() for row in known}
    assert not (batch["token_ids"] == data.tokenizer.unknown_id).any()
    if len(data.options.views) > 1:
        assert (batch["token_ids"][:, 0] != batch["token_ids"][:, -1]).any()


@pytest.mark.parametrize("label", FORMS)
def test_files_become_a_training_step(tmp_path, label):
    if "parquet" in label:
        pytest.importorskip("pyarrow")
    form = FORMS[label]
    stage = "pretrain" if form.name in FILES else "finetune"
    manifest = prepared(form, tmp_path)
    assert {split: tuple(n.values()) for split, n in manifest["splits"].items()} == form.counts
    assert manifest["left_out"] == form.left_out

    views, state, step = training(stage)
    config = run_config(stage, form, directory=tmp_path / "out", dataset=manifest["name"])
    data = open_data(config, views=views)
    batches = data.batches(config, start=0, say=print)
    batch = next(batches)
    batches.close()
    assert not batch.pop("substituted").any() and not batch.pop("truncated").any()
    assert_texts(data, batch)

    after, metrics = step(state, batch, KEY)
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
    before = dict(jax.tree_util.tree_leaves_with_path(state.params))
    unmoved = [
        path_name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(after.params)
        if np.array_equal(leaf, before[path])
    ]
    assert not unmoved
