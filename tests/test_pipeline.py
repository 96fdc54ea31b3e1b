"""Batches as a pure function of the step: processes, resuming, threads, bad records, mixtures."""

import dataclasses
import io
from typing import cast

import numpy as np
import pytest
from PIL import Image

from configs import base
from ivt_jax.data import pipeline
from ivt_jax.data.pipeline import TrainingEntries, ViewOptions, epochs_seen, training_batches
from ivt_jax.data.records import DataError, RecordSource
from ivt_jax.data.texts import load_tokenizer
from ivt_jax.training.program import batch_shapes

WORDS = ["a", "man", "woman", "in", "red", "blue", "coat", "hat", "with", "bag", "walks", ",", "."]
OPTIONS = ViewOptions(
    views=("word", "phrase", "sentence"),
    image_size=(24, 12),
    text_length=12,
    separator="none",
    decode="exact",
    resize="bilinear",
    pad=2,
    flip=0.5,
    word_level="words",
    phrase_level="pieces",
    image_views="level",
)


@dataclasses.dataclass
class People:
    """A RecordSource of drawn images; record i shows the grey value of its number."""

    captions_per_record: np.ndarray
    identities: np.ndarray
    corrupt: frozenset = frozenset()
    damaged: frozenset = frozenset()
    caption: str = "A man in a red coat, with a blue bag. Walks {}"
    name: str = "people"

    def __len__(self):
        return len(self.identities)

    def read(self, indices):
        return [self[index] for index in indices]

    def __getitem__(self, index):
        if index in self.damaged:
            raise RuntimeError("Corrupted Riegeli/records file: chunk data hash mismatch")
        stream = io.BytesIO()
        Image.new("RGB", (12, 24), (10 * (index + 1),) * 3).save(stream, "PNG")
        count = int(self.captions_per_record[index])
        colours = [WORDS[4 + number % 2] for number in range(count)]
        return {
            "image": b"no image" if index in self.corrupt else stream.getvalue(),
            "captions": [self.caption.format(colour) for colour in colours],
            "words": ["man, red coat, bag"] * count,
            "attributes": [""] * count,
            "identity": int(self.identities[index]),
            "source": "stub",
            "key": f"record {index}",
            "annotation": "",
        }


def people(**changes):
    return People(np.array([2, 2, 1, 3, 2, 2, 1, 2]), np.array([0, 0, 1, 1, 2, 2, 3, 3]), **changes)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return load_tokenizer(path)


def dataset(source=None, **changes):
    options = {"kind": "captions", "sampler": "shuffle", "group": 2, "seed": 3} | changes
    return TrainingEntries(cast(RecordSource, source or people()), **options)


def read(tokenizer, count, *, datasets=None, weights=(1.0,), options=OPTIONS, **changes):
    """The first `count` batches of a stream."""
    settings = {"batch_size": 4, "seed": 11} | changes
    stream = training_batches(
        datasets or [dataset()], list(weights), tokenizer=tokenizer, options=options, **settings
    )
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


@pytest.fixture(scope="module")
def batches(tokenizer):
    """Ten batches of four, one process: longer than two epochs of 15 entries."""
    return read(tokenizer, 10)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_shapes_and_types(batches):
    expected = {
        "images": ((4, 3, 24, 12, 3), np.uint8),
        "token_ids": ((4, 3, 12), np.int32),
        "token_mask": ((4, 3, 12), np.bool_),
        "identities": ((4,), np.int32),
        "truncated": ((4, 3), np.bool_),
        "substituted": ((4, 2), np.int32),
    }
    assert {name: (x.shape, x.dtype) for name, x in batches[0].items()} == expected


def test_phrases_are_noun_phrases_where_the_options_say_so(tokenizer):
    options = dataclasses.replace(OPTIONS, views=("phrase",) * 2, phrase_level="nouns")
    ids, mask, _ = tokenizer.encode(["man", "bag", "man, bag"], length=12)  # as the stub stores
    known = {row[real].tobytes() for row, real in zip(ids, mask, strict=True)}
    seen = set()
    for batch in read(tokenizer, 5, options=options):
        ids, mask = (batch[name].reshape(-1, 12) for name in ("token_ids", "token_mask"))
        seen |= {row[real].tobytes() for row, real in zip(ids, mask, strict=True)}
    assert seen == known


def test_one_image_view_leaves_the_texts_as_they_are(batches, tokenizer):
    one = read(tokenizer, 1, options=dataclasses.replace(OPTIONS, image_views="one"))[0]
    assert one["images"].shape == (4, 1, 24, 12, 3)
    np.testing.assert_array_equal(one["token_ids"], batches[0]["token_ids"])


def test_views_are_the_levels_in_order_with_an_image_each(batches, tokenizer):
    for batch in batches:
        sentence = batch["token_ids"][0, 2][batch["token_mask"][0, 2]]
        assert sentence[0] == tokenizer.class_id and len(sentence) == 12  # cut to the length
        word = batch["token_ids"][0, 0][batch["token_mask"][0, 0]]
        assert len(word) <= 7
    images = np.concatenate([batch["images"] for batch in batches])
    assert any(not np.array_equal(views[0], views[1]) for views in images), "own augmentation"
    # Whatever the crop, all views show the same photo.
    assert all(len({int(view.max()) for view in views}) == 1 for views in images)


def test_an_epoch_holds_every_entry_once(tokenizer):
    (batch,) = read(tokenizer, 1, batch_size=15)
    shown = batch["images"][:, 0].reshape(15, -1).max(axis=1) // 10 - 1
    assert np.bincount(shown, minlength=8).tolist() == people().captions_per_record.tolist()
    assert (batch["identities"] == people().identities[shown]).all()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_same_global_batches(tokenizer, batches, processes):
    shares = [
        read(tokenizer, 10, process=process, processes=processes) for process in range(processes)
    ]
    for step, expected in enumerate(batches):
        joined = {name: np.concatenate([s[step][name] for s in shares]) for name in expected}
        assert_equal(joined, expected)


@pytest.mark.parametrize("start", [1, 4, 7])
def test_resuming_needs_the_step_alone(tokenizer, batches, start):
    for found, expected in zip(read(tokenizer, 3, start_step=start), batches[start:], strict=False):
        assert_equal(found, expected)


def test_resuming_in_several_processes(tokenizer, batches):
    (found,) = read(tokenizer, 1, start_step=6, process=1, processes=2)
    assert_equal(found, {name: value[2:] for name, value in batches[6].items()})


@pytest.mark.parametrize("feed", [{"threads": 1, "prefetch": 1}, {"threads": 8, "prefetch": 16}])
def test_threads_do_not_matter(tokenizer, batches, feed):
    for found, expected in zip(read(tokenizer, 10, **feed), batches, strict=True):
        assert_equal(found, expected)


def test_seeds_change_augmentation_and_order(tokenizer, batches):
    (augmented,) = read(tokenizer, 1, seed=12)
    np.testing.assert_array_equal(augmented["identities"], batches[0]["identities"])
    assert not np.array_equal(augmented["images"], batches[0]["images"])
    ordered = read(tokenizer, 10, datasets=[dataset(seed=4)])
    assert any(
        not np.array_equal(a["identities"], b["identities"])
        for a, b in zip(ordered, batches, strict=True)
    )


@pytest.mark.parametrize("fault", ["corrupt", "damaged"])
def test_a_bad_record_is_replaced_and_all_others_stay(tokenizer, batches, fault):
    broken = dataset(people(**{fault: frozenset([5])}), number=2)
    found = read(tokenizer, 10, datasets=[broken])
    replaced = 0
    for ours, theirs in zip(found, batches, strict=True):
        for row in range(4):
            was_bad = theirs["images"][row].max() == 60  # the grey of record 5
            assert ours["substituted"][row].tolist() == ([3, 5] if was_bad else [0, 0])
            if was_bad:
                replaced += 1
                assert ours["images"][row].max() == 70 and ours["identities"][row] == 3
            else:
                for name in ("images", "token_ids", "token_mask", "identities"):
                    np.testing.assert_array_equal(ours[name][row], theirs[name][row])
    assert replaced >= 4


def test_two_bad_records_in_a_row_report_the_first(tokenizer):
    broken = dataset(people(corrupt=frozenset([0, 1])))
    (batch,) = read(tokenizer, 1, batch_size=15, datasets=[broken])
    assert batch["images"].reshape(15, -1).max(axis=1).min() == 30
    reported = batch["substituted"][batch["substituted"][:, 0] > 0]
    assert sorted(reported[:, 1].tolist()) == [0, 0, 1, 1]


def test_a_dataset_without_one_good_image_is_an_error(tokenizer):
    hopeless = dataset(people(corrupt=frozenset(range(8))))
    with pytest.raises(DataError, match="people cannot be read"):
        read(tokenizer, 1, datasets=[hopeless])


def test_cut_texts_are_counted(tokenizer, batches):
    # The sentence has 14 words and the length is 12: it alone is cut.
    assert all((batch["truncated"] == [False, False, True]).all() for batch in batches)
    longer = dataclasses.replace(OPTIONS, text_length=20)
    (batch,) = read(tokenizer, 1, options=longer)
    assert not batch["truncated"].any()


def test_a_level_is_cut_to_its_own_length(tokenizer, batches):
    options = dataclasses.replace(OPTIONS, word_length=3, phrase_length=4)
    (batch,), whole = read(tokenizer, 1, options=options), batches[0]
    for view, length in enumerate((3, 4, 12)):
        mask = whole["token_mask"][:, view] & (np.arange(12) < length)
        assert np.array_equal(batch["token_mask"][:, view], mask)
        expected = np.where(mask, whole["token_ids"][:, view], tokenizer.pad_id)
        assert np.array_equal(batch["token_ids"][:, view], expected)
    cut = whole["token_mask"][:, :2].sum(axis=2) > [3, 4]
    assert np.array_equal(batch["truncated"][:, :2], cut) and cut.any()


def test_mixtures_keep_their_proportions_and_never_share_identities(tokenizer):
    datasets = [dataset(), dataset(people(), number=1, identity_offset=4)]
    found = read(tokenizer, 1, datasets=datasets, weights=(3.0, 1.0), batch_size=80)
    identities = found[0]["identities"]
    assert (identities >= 4).sum() == 20
    assert set(identities.tolist()) == set(range(8))


def test_parts_of_a_mixture_are_the_streams_themselves(tokenizer, batches):
    datasets = [dataset(), dataset(people(), number=1, identity_offset=4)]
    (mixed,) = read(tokenizer, 1, datasets=datasets, weights=(0.5, 0.5), batch_size=16)
    first = {name: x[mixed["identities"] < 4] for name, x in mixed.items()}
    assert_equal(
        first, {name: np.concatenate([batches[0][name], batches[1][name]]) for name in first}
    )


def test_image_entries_draw_one_of_the_captions(tokenizer):
    entries = dataset(kind="images")
    assert len(entries.order) == 8
    options = dataclasses.replace(OPTIONS, views=("sentence",), text_length=20)
    (batch,) = read(tokenizer, 1, datasets=[entries], options=options, batch_size=8 * 12)
    shown = batch["images"][:, 0].reshape(len(batch["images"]), -1).max(axis=1) // 10 - 1
    assert (np.bincount(shown) == 12).all()
    texts = {
        record: {tuple(t) for t in batch["token_ids"][shown == record, 0]} for record in (2, 3)
    }
    assert (
        len(texts[2]) == 1 and len(texts[3]) == 2
    )  # captions differ by the parity of their number


def test_identity_groups_stand_together(tokenizer):
    entries = dataset(sampler="identity", group=2)
    (batch,) = read(tokenizer, 1, datasets=[entries], batch_size=12)
    pairs = batch["identities"].reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()


def test_reading_processes_do_not_matter(tokenizer, batches):
    for found, expected in zip(read(tokenizer, 4, workers=2), batches, strict=False):
        assert_equal(found, expected)


GIB_OF_FIVE = 5 * 24 * 12 * 3 / 2**30  # of the eight images


@pytest.mark.parametrize(
    "feed", [{"cache_gib": 1.0}, {"cache_gib": GIB_OF_FIVE}, {"cache_gib": 1.0, "workers": 2}]
)
def test_samples_are_the_same_with_and_without_a_cache(tokenizer, feed):
    """Bicubic from another size, bad records among them: all that the cache could change."""
    options = dataclasses.replace(OPTIONS, image_size=(20, 10), resize="bicubic")
    bad = people(corrupt=frozenset([5]))
    expected = read(tokenizer, 10, datasets=[dataset(bad)], options=options)
    cached = read(tokenizer, 10, datasets=[dataset(bad)], options=options, **feed)
    for ours, theirs in zip(cached, expected, strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize(("gib", "each"), [(1.0, 1), (GIB_OF_FIVE, None), (0.0, None)])
def test_a_cache_decodes_once_what_it_has_room_for(tokenizer, monkeypatch, gib, each):
    decoded = []

    def counting(data, *, key, **how):
        decoded.append(key)
        return real(data, key=key, **how)

    real = pipeline.decode_resized
    monkeypatch.setattr(pipeline, "decode_resized", counting)
    # One thread: two may decode one image at once.
    entries, feed = dataset(kind="images"), {"cache_gib": gib, "threads": 1, "prefetch": 1}
    read(tokenizer, 5, datasets=[entries], options=OPTIONS, batch_size=8, **feed)
    visits = sorted(decoded.count(f"record {number}") for number in range(8))
    if each:
        assert visits == [each] * 8
    else:
        kept = 5 if gib else 0
        assert visits[:kept] == [1] * kept and min(visits[kept:]) >= 5


def test_a_mixture_never_confuses_the_images_of_its_datasets(tokenizer):
    other = people(caption="Woman, hat, {} bag")
    datasets = [dataset(), dataset(other, number=1, identity_offset=4)]
    plain, cached = (
        read(tokenizer, 6, datasets=datasets, weights=(0.5, 0.5), cache_gib=gib)
        for gib in (0.0, 1.0)
    )
    for ours, theirs in zip(cached, plain, strict=True):
        assert_equal(ours, theirs)


CORPORA = (2.54, 0.857, 0.567, 0.769)  # the weights of configs/cc4m.py


def corpora():
    """Four datasets whose identities tell them apart."""
    return [
        dataset(kind="images", number=number, seed=number, identity_offset=4 * number)
        for number in range(4)
    ]


@pytest.fixture(scope="module")
def mixed(tokenizer):
    return read(tokenizer, 12, datasets=corpora(), weights=CORPORA)


@pytest.mark.parametrize("processes", [2, 4])
def test_a_mixture_is_the_same_in_any_number_of_processes(tokenizer, mixed, processes):
    feed = {"datasets": corpora(), "weights": CORPORA, "processes": processes}
    shares = [read(tokenizer, 12, process=process, **feed) for process in range(processes)]
    for step, expected in enumerate(mixed):
        joined = {name: np.concatenate([s[step][name] for s in shares]) for name in expected}
        assert_equal(joined, expected)


@pytest.mark.parametrize("start", range(1, 12))
def test_a_mixture_resumes_at_any_step(tokenizer, mixed, start):
    (found,) = read(tokenizer, 1, datasets=corpora(), weights=CORPORA, start_step=start)
    assert_equal(found, mixed[start])


def test_epochs_seen_are_those_of_the_samples(tokenizer):
    """Counted in 600 samples; the mixture may be one sample of each dataset ahead or behind."""
    found = read(tokenizer, 5, datasets=corpora(), weights=CORPORA, batch_size=120)
    origins = np.concatenate([batch["identities"] for batch in found]) // 4
    counted = np.bincount(origins, minlength=4) / 8  # entries of each
    told = epochs_seen(corpora(), list(CORPORA), samples=600)
    np.testing.assert_allclose(told, counted, atol=2 / 8)
    assert sum(told) * 8 == pytest.approx(600)


@pytest.mark.parametrize("image_views", ["level", "one"])
def test_the_step_is_compiled_for_the_batches_that_come(tokenizer, image_views):
    config = base.get_config()
    config.model.image_size, config.data.text_length = OPTIONS.image_size, OPTIONS.text_length
    config.training.batch_size, config.data.image_views = 4, image_views
    expected = batch_shapes(config, views=OPTIONS.views)
    options = dataclasses.replace(OPTIONS, image_views=image_views)
    batch = read(tokenizer, 1, options=options)[0]
    counts = {"substituted", "truncated"}  # which the loop takes out
    assert set(batch) - counts == set(expected)
    for name, shape in expected.items():
        assert (batch[name].shape, batch[name].dtype) == (shape.shape, shape.dtype)
