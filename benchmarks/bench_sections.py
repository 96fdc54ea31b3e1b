"""The sections of the benchmark: who meets at what, and which bars that answers."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.bench_case import CAPTIONS, IMAGES, plain_pairs, read_batch
from benchmarks.bench_race import Bench, Contestant, Job
from benchmarks.bench_report import Row, paired

_MASKING = {"strategy": "drop", "image_ratio": 0.3, "text_ratio": 0.3}
_OFFICIAL = {"strategy": "official", "draws": "batch", "image_ratio": 0.2, "text_ratio": 0.2}
_NONE = {"strategy": "none", "image_ratio": 0.0, "text_ratio": 0.0}
# The step of both sides without anything random; tests compare their losses.
NOTHING = {"drop_path": 0.0, "dropout": 0.0, "share": 0.0}
PLAIN = {
    "masking.strategy": "none",
    "objective.levels": "sentence",
    "data.erase": 0.0,
    "model.drop_path": 0.0,
    "model.text_dropout": 0.0,
    "schedule.name": "constant",
    "schedule.warmup_epochs": 0.0,
    "optimizer.learning_rate": 5e-5,
}
# Seconds of a section with the base model on two cores, from which the time left is guessed.
_EXPECTED = {"matrix": 25, "plain": 420, "step": 110, "pretrain": 200, "encode": 90}
_EXPECTED |= {"masking": 260, "ranking": 60, "fits": 60, "input": 60, "start": 110}
STEP = "training step"
_OF_THE_MODEL = ("plain", "step", "masking", "pretrain", "encode")


def expected(bench: Bench, section: str) -> float:
    """Seconds it may take, good for proportions only."""
    quick = 0.4 if bench.quick else 1.0
    small = 0.1 if bench.model == "tiny" and section in _OF_THE_MODEL else 1.0
    return _EXPECTED[section] * quick * small


def matrix(bench: Bench) -> None:
    """The fastest product of two square matrices, of either side: what shares are shares of."""
    size = 8192 if bench.gpu else 512 if bench.quick else 2048
    for dtype in bench.dtypes:
        given = {"command": "matrix", "dtype": dtype, "size": size}
        who = [Contestant("ours", "ours", given), Contestant("PyTorch", "torch", given)]
        job = Job("matrix", f"{size} x {size}, {dtype}", 1, "products/s", 2.0 * size**3)
        bench.race("matrix", who, [job])
        found = [row for row in bench.found if row.job == job.label]
        bench.rates[dtype] = max(row.flops or 0.0 for row in found)
        for row in found:
            row.share = (row.flops or 0.0) / bench.rates[dtype]


def plain(bench: Bench) -> None:
    """Equal work: one image and one text a pair, no masking, no dropout, no padding."""
    flops, length = _plain_flops(bench)
    jobs = [
        Job("images", "encode images", bench.rows, "images/s", flops["images"]),
        Job("captions", "encode captions", bench.rows, "captions/s", flops["captions"]),
        Job("step", STEP, bench.rows, "pairs/s", flops["step"]),
    ]
    for dtype in bench.dtypes:
        section = f"plain {dtype}"
        given = {"dtype": dtype, "rows": bench.rows}
        who = [Contestant("ours", "ours", given | {"config": PLAIN | {"data.text_length": length}})]
        given |= {"views": 1, "official": NOTHING}
        for attention in ("plain", "sdpa"):
            spec = given | {"attention": attention}
            who.append(Contestant(f"PyTorch, {attention}", "torch", spec))
        if bench.compiled:
            spec = given | {"attention": "sdpa", "compile": True}
            who.append(Contestant("PyTorch, compiled", "torch", spec))
        bench.race(section, who, jobs)
        _plain_bars(bench, section)


def _plain_bars(bench: Bench, section: str) -> None:
    def seconds(who: str, *jobs: str) -> list[float]:
        rows = [bench.row(section, job, who) for job in jobs]
        return [sum(x) for x in zip(*(row.seconds for row in rows if row), strict=True)]

    if bench.gpu:
        ratio = paired(seconds("ours", STEP), seconds("PyTorch, compiled", STEP))
        bench.bar(f"{section}, {STEP}: time over torch.compile's", ratio, "<=", 1.0)
        own = bench.row(section, STEP, "ours")
        if own and own.share:
            bench.bar(f"{section}, {STEP}: matrix rate used", 100 * own.share, ">=", 57, "%")
    elif bench.model == "base":
        for jobs, limit in ((("encode images", "encode captions"), 1.2), ((STEP,), 1.4)):
            eager = [seconds(f"PyTorch, {name}", *jobs) for name in ("plain", "sdpa")]
            ratio = paired(seconds("ours", *jobs), min(eager, key=statistics.median))
            name = f"{section}, {' and '.join(jobs)}: time over the faster eager PyTorch's"
            bench.bar(name, ratio, "<=", limit)


def step(bench: Bench) -> None:
    """The fine-tuning step as a user runs it, against the official way."""
    section, rows = "fine-tuning step", bench.step_rows
    job = f"{rows} pairs, 3 levels"
    flops = _step_flops(bench, rows, _OFFICIAL)
    given = {"dtype": "bfloat16", "rows": rows, "flops": flops}
    who = [_ours_masking(bench, "ours, 0.3 dropped", _MASKING)]
    for attention in ("plain", "sdpa") if bench.gpu else ("plain",):  # each takes gigabytes
        spec = given | {"attention": attention}
        who.append(Contestant(f"PyTorch, official, {attention}", "torch", spec))
    bench.race(section, who, [Job("step", job, rows, "pairs/s")])
    own, official = (bench.row(section, job, each.name) for each in who[:2])
    if not own or not official:
        return
    value, goal = paired(official.seconds, own.seconds), 2.0 if bench.gpu else 1.2
    bench.bar(f"{section}: official PyTorch's time over ours", value, ">=", goal)
    if bench.gpu:
        memory = (own.peak or 0) / (official.peak or 1)
        bench.bar(f"{section}: peak memory over PyTorch's", memory, "<=", 1.0)


def masking(bench: Bench) -> None:
    """What masking saves of our fine-tuning step, each kind against none."""
    kinds = {"0.3 dropped": (_MASKING, 1.35), "official count": (_OFFICIAL, 1.07)}
    for kind, (masking, least) in kinds.items():
        section, job = f"BMM, {kind}", f"{bench.step_rows} pairs, 3 levels"
        who = [_ours_masking(bench, kind, masking), _ours_masking(bench, "unmasked", _NONE)]
        bench.race(section, who, [Job("step", job, bench.step_rows, "pairs/s")])
        masked, unmasked = (bench.row(section, job, each.name) for each in who)
        if masked and unmasked:
            # The official count is drawn anew for each step, so the mean is what a run gets.
            value = statistics.mean(unmasked.seconds) / statistics.mean(masked.seconds)
            bench.bar(f"{section}: unmasked time over masked", value, ">=", least)


def _ours_masking(bench: Bench, name: str, masking: dict) -> Contestant:
    """Our fine-tuning step with one kind of masking."""
    config = _text_lengths(bench) | {f"masking.{field}": v for field, v in masking.items()}
    spec = {"dtype": "bfloat16", "rows": bench.step_rows, "config": config}
    return Contestant(name, "ours", spec | {"flops": _step_flops(bench, bench.step_rows, masking)})


def pretrain(bench: Bench) -> None:
    """The pretraining step: one caption an image."""
    rows, dtype = bench.rows, bench.dtypes[-1]
    given = {"dtype": dtype, "rows": rows}
    config = {"objective.levels": "sentence"}
    flops = _step_flops(bench, rows, _MASKING, views=1)
    who = [Contestant("ours, 0.3 dropped", "ours", given | {"config": config, "flops": flops})]
    flops = _step_flops(bench, rows, _OFFICIAL, views=1)
    for attention in ("plain", "sdpa"):
        spec = {"attention": attention, "views": 1, "flops": flops}
        who.append(Contestant(f"PyTorch, official, {attention}", "torch", given | spec))
    bench.race("pretraining step", who, [Job("step", f"{rows} pairs", rows, "pairs/s")])


def encode(bench: Bench) -> None:
    """A test set from JPEGs and sentences: each photo once, against once for every caption."""
    section, photos = "test set", bench.photos
    job = f"{photos} photos, {2 * photos} captions"
    dtype = "bfloat16"
    who = [
        Contestant("ours", "ours", {"dtype": dtype}),
        Contestant("PyTorch, official", "torch", {"dtype": dtype, "attention": "plain"}),
        Contestant("PyTorch, official, sdpa", "torch", {"dtype": dtype, "attention": "sdpa"}),
    ]
    bench.race(section, who, [Job("encode", job, photos, "photos/s")])
    for each in who:
        row = bench.row(section, job, each.name)
        if row:
            whole = row.median * (IMAGES + CAPTIONS) / (3 * photos)
            row.note = f"{IMAGES:,} photos and {CAPTIONS:,} captions, scaled: {whole:,.0f} s"
    own, official = (bench.row(section, job, each.name) for each in who[:2])
    if own and official:
        value = paired(official.seconds, own.seconds)
        bench.bar("encoding a test set: official PyTorch's time over ours", value, ">=", 1.2)
    if own and bench.gpu:
        whole = own.median * (IMAGES + CAPTIONS) / (3 * photos)
        bench.bar("encoding CUHK-PEDES's test set, scaled", whole, "<=", 5.0, "s")


def ranking(bench: Bench) -> None:
    """All metrics of a CUHK-PEDES-sized test set from its embeddings."""
    share = 0.1 if bench.quick else 1.0
    job = f"{int(CAPTIONS * share):,} captions, {int(IMAGES * share):,} photos"
    given = {"command": "ranking", "share": share}
    sides = {"ranking": ("ours", "ours"), "official": ("official loop", "torch")}
    sides["plain"] = ("plain PyTorch", "torch")
    who = [Contestant(name, side, given | {"function": f}) for f, (name, side) in sides.items()]
    bench.race("ranking", who, [Job("", job, CAPTIONS * share, "captions/s")])
    own, official, _ = (bench.row("ranking", job, each.name) for each in who)
    if own and official and not bench.quick:
        value = paired(official.seconds, own.seconds)
        bench.bar("ranking: the official loop's time over ours", value, ">=", 20)
        bench.bar("ranking: ours", own.median, "<=", 1.0, "s")


def fits(bench: Bench) -> None:
    """Whether a step of 1,024 pairs runs on one device without accumulation."""
    rows = 1024
    spec = {"dtype": bench.dtypes[-1], "rows": rows, "config": {"objective.levels": "sentence"}}
    rounds, bench.rounds = bench.rounds, 1
    try:
        job = Job("step", f"{rows:,} pairs at once", rows, "pairs/s")
        bench.race("memory", [Contestant("ours", "ours", spec)], [job])
    finally:
        bench.rounds = rounds


def pipeline(bench: Bench) -> None:
    """Reading and augmenting images: this project's functions beside Pillow, see input.py."""
    from benchmarks import input as reading

    photos = [reading.photo(number) for number in range(8 if bench.quick else 32)]
    timed = reading.single_core(photos)
    wanted = {"ours, exact: decode + augment": "one core, exact"}
    wanted["ours, scaled: decode + augment"] = "one core, scaled"
    wanted["Pillow: decode + resize"] = "one core, Pillow, without augmenting"
    times: dict[str, list[float]] = {name: [] for name in wanted if name in timed}
    for _ in range(bench.rounds):
        for name in times:
            times[name].append(len(photos) / reading.clocked(timed[name], photos))
    for name, seconds in times.items():
        row = Row("input", "decode and augment", wanted[name], seconds, unit="images/s")
        row.rate = len(photos) / row.median
        bench.found.append(row)
    with tempfile.TemporaryDirectory() as folder:
        _whole_pipeline(bench, Path(folder))


def _whole_pipeline(bench: Bench, folder: Path) -> None:
    from benchmarks import input as reading
    from ivt_jax.data import synthetic
    from ivt_jax.data.builders.dataset import write_dataset
    from ivt_jax.data.builders.ingest import Split
    from ivt_jax.data.pipeline import TrainingEntries
    from ivt_jax.data.records import open_dataset, vocabulary_path
    from ivt_jax.data.texts import load_tokenizer

    splits = {"train": Split(range(64), reading.record)}
    write_dataset(reading.NAME, splits, out=folder, vocabulary=synthetic.vocabulary())
    source = open_dataset(folder, reading.NAME, "train")
    entries = TrainingEntries(source, kind="captions", sampler="shuffle", group=1, seed=0)
    tokenizer = load_tokenizer(vocabulary_path(folder, reading.NAME))
    images = reading.BATCH * 16  # four batches are ready before the clock starts
    feeds = {"threads": {"workers": 0, "threads": 2}}
    feeds["threads, cached"] = {"workers": 0, "threads": 2, "cache_gib": 1.0}
    runs = {
        name: reading.whole(entries, tokenizer, mode="exact", images=images, **feed)
        for name, feed in feeds.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(bench.rounds):
        for name, run in runs.items():
            times[name].append(images / run()[0])
    for name, seconds in times.items():
        row = Row("input", "whole pipeline", name, seconds, unit="images/s")
        row.rate = images / row.median
        bench.found.append(row)


def start(bench: Bench) -> None:
    """From the command line to the first step of the tiny model."""
    from benchmarks import bench_start

    cache = bench.folder / "cache"
    rounds = 1 if bench.quick else bench.rounds
    imports = [bench_start.imports() for _ in range(rounds)]
    bench.say(f"start: a first run, then {rounds} with its compiled programs")
    times = [
        bench_start.first_step(bench.case, bench.folder / f"run-{number}", cache=cache)
        for number in range(rounds + 1)
    ]
    found = {"imports": imports, "first step, cold": times[:1], "first step, warm": times[1:]}
    for name, seconds in found.items():
        bench.found.append(Row("start, tiny model", name, "ours", seconds))
    bench.bar("start: warm, to the first step", statistics.median(times[1:]), "<=", 20.0, "s")


def _plain_flops(bench: Bench) -> tuple[dict[str, float], int]:
    """FLOPs of the plain jobs by their names, and the length of the longest text."""
    from ivt_jax.model.ivt import IVTConfig
    from ivt_jax.training.flops import step_costs

    config = IVTConfig(**bench.sizes, layers="unroll")
    mask = plain_pairs(read_batch(bench.case, rows=bench.rows))["token_mask"]
    given = {"batch_size": bench.rows, "views": 1, "image_tokens": config.image_tokens}
    both = step_costs(config, **given, text_tokens=float(mask.sum(axis=1).mean()))
    alone = step_costs(config, **given, text_tokens=0)
    forward = [sum(c.forward.flops for c in x.values()) for x in (both, alone)]
    found = {"images": forward[1] - both["matching"].forward.flops}
    found |= {"captions": forward[0] - forward[1]}
    return found | {"step": sum(c.total.flops for c in both.values())}, mask.shape[1]


def _text_lengths(bench: Bench) -> dict[str, int]:
    """Static lengths that cut no text of the batch, multiples of 8, as a run's config has them."""
    longest = read_batch(bench.case)["token_mask"].sum(axis=-1).max(axis=0)  # (V,)
    word, phrase, sentence = (-(-int(length) // 8) * 8 for length in longest)
    found = {"data.text_length": max(word, phrase, sentence)}
    return found | {"data.word_length": word, "data.phrase_length": phrase}


def _step_flops(bench: Bench, rows: int, masking: dict, *, views: int = 3) -> float:
    from ivt_jax.model.ivt import IVTConfig
    from ivt_jax.training.flops import Work

    mask = read_batch(bench.case, rows=rows)["token_mask"][:, -views:]
    config = IVTConfig(**bench.sizes, layers="unroll")
    return Work(config, rows, views, masking).flops(float(np.mean(mask.sum(axis=-1))))
