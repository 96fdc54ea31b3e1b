"""Tokens and text levels against the official code's own outputs."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ivt_jax.data import texts, words
from ivt_jax.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
TOKENS = json.loads((GOLDEN / "tokenizer.json").read_text())
LEVELS = json.loads((GOLDEN / "text_levels.json").read_text())
CAPTION = "A man with red hair, wearing a v-neck shirt. He carries a large black bag."


def write_vocabulary(folder: Path, tokens: list[str]) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return texts.load_tokenizer(
        write_vocabulary(tmp_path_factory.mktemp("vocabulary"), TOKENS["vocab"])
    )


@pytest.mark.parametrize("case", TOKENS["single"], ids=lambda case: case["text"])
def test_ids_equal_the_official_ones(tokenizer, case):
    ids, mask, truncated = tokenizer.encode([case["text"]], length=20)
    n = len(case["input_ids"])
    assert ids.dtype == np.int32 and mask.dtype == bool and ids.shape == (1, 20)
    assert ids[0, :n].tolist() == case["input_ids"]
    assert mask[0].tolist() == [True] * n + [False] * (20 - n)
    assert (ids[0, n:] == TOKENS["vocab"].index("[PAD]")).all()
    assert not truncated[0]


def test_ids_equal_transformers_with_accents_and_chinese(tmp_path):
    from transformers import BertTokenizer

    tokens = [*texts.SPECIAL_TOKENS, "cafe", "红", "色", "a", "##b", "!", "t", "-", "shirt"]
    path = write_vocabulary(tmp_path, tokens)
    reference = BertTokenizer.from_pretrained(str(tmp_path))
    tokenizer = texts.load_tokenizer(path)
    for text in ("Café!", "红色 ab", "T-Shirt\u00a0a\u200bb", "x" * 150, "a\tb\n!", "é" * 5):
        expected = reference(text)["input_ids"]
        for separator, wanted in (("sep", expected), ("none", expected[:-1])):
            ids, mask, _ = tokenizer.encode([text], length=40, separator=separator)
            assert ids[0][mask[0]].tolist() == wanted


def test_long_captions_are_cut_and_told(tokenizer):
    caption = "man " * 131
    ids, mask, truncated = tokenizer.encode([caption, "man"], length=10, separator="sep")
    assert truncated.tolist() == [True, False]
    assert mask[0].all() and ids[0, -1] == tokenizer.separator_id
    assert ids[1, :4].tolist() == [2, 7, 3, 0]
    _, _, truncated = tokenizer.encode(["man " * 9, "man " * 10], length=10)
    assert truncated.tolist() == [False, True]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec=None), max_size=80))
@example("")
@example("  \t")
@example("\0\0")
@example("\ud800")
@example("😀😀")
@example("red " * 1000)
@example("[PAD] [SEP]")
def test_every_caption_has_a_real_token(tokenizer, caption):
    for separator in texts.SEPARATORS:
        ids, mask, _ = tokenizer.encode([caption], length=12, separator=separator)
        real = ids[0][mask[0]]
        assert mask[0, : len(real)].all()
        assert real[0] == tokenizer.class_id
        assert len(real) >= (3 if separator == "sep" else 2)
        assert real[1] not in (tokenizer.pad_id, tokenizer.separator_id, tokenizer.class_id)


def test_empty_caption_is_unknown(tokenizer):
    ids, mask, _ = tokenizer.encode(["", "\0", " "], length=4)
    assert ids[:, :2].tolist() == [[2, 1]] * 3 and mask.sum() == 6


def test_tokenizer_travels_to_workers(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(["a man"], length=5)[0].tolist() == [[2, 5, 7, 0, 0]]
    assert copy.tokens() == TOKENS["vocab"]


def test_bad_vocabularies_are_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match="bert-base-uncased"):
        texts.load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"lacks \[MASK\]"):
        texts.load_tokenizer(write_vocabulary(tmp_path, list(texts.SPECIAL_TOKENS[:4])))
    with pytest.raises(UserError, match="repeats 1"):
        texts.load_tokenizer(write_vocabulary(tmp_path, [*texts.SPECIAL_TOKENS, "[PAD]"]))
    with pytest.raises(ValueError, match="no room"):
        tokenizer.encode(["a"], length=2, separator="sep")
    with pytest.raises(ValueError, match="separator"):
        tokenizer.encode(["a"], length=5, separator="[SEP]")


def test_a_false_bert_vocabulary_is_warned_about(tmp_path):
    fill = [f"w{i}" for i in range(texts.BERT_UNCASED_SIZE - len(texts.SPECIAL_TOKENS))]
    path = write_vocabulary(tmp_path, [*texts.SPECIAL_TOKENS, *fill])
    with pytest.warns(UserWarning, match="differs from it"):
        assert texts.load_tokenizer(path).size == texts.BERT_UNCASED_SIZE


@pytest.mark.parametrize("case", LEVELS["captions"], ids=lambda case: case["caption"][:20])
def test_candidates_equal_the_official_ones(case):
    def expected(name):
        # Where the official code stops with an error, the whole caption is the one candidate.
        return case[name] if isinstance(case[name], list) else [case["lower"]]

    caption = case["caption"]
    assert texts.phrase_candidates(caption) == expected("phrase_candidates")
    for source, name in (
        ("icfg_pedes", "word_candidates_icfg"),
        ("rstpreid", "word_candidates_rstp"),
        ("cuhk_pedes", "word_candidates_cuhk_without_att"),
    ):
        assert texts.official_word_candidates(caption, source=source) == expected(name)


def test_official_attribute_strings():
    """The golden draws, remade from the keys that python's random gave the official code."""
    import random

    table = LEVELS["cuhk_att"]["att"]
    for seed, expected in enumerate(LEVELS["cuhk_att"]["results_seed_0_to_5"]):
        draw = random.Random(seed)
        keys = draw.sample(list(table), draw.randint(1, len(table)))
        assert texts.join_attributes(table, keys) == expected


def test_attribute_draws_have_the_official_distribution():
    table = LEVELS["cuhk_att"]["att"]
    rng = np.random.default_rng(0)
    draws = [texts.attribute_words(table, rng).split(",") for _ in range(4000)]
    sizes = np.bincount([len(draw) for draw in draws], minlength=5)[1:]
    assert all(len(set(draw)) == len(draw) for draw in draws)
    np.testing.assert_allclose(sizes / 4000, 0.25, atol=0.03)
    first = [sum(draw[0] == words for draw in draws) / 4000 for words in table.values()]
    np.testing.assert_allclose(first, 0.25, atol=0.03)


def levels(style="words", seed=0, *, phrases="pieces", views=texts.LEVELS, **changes):
    given = {"words": "man, red, hair", "attributes": "", "source": "x"} | changes
    styles = {"word_style": style, "phrase_style": phrases}
    rng = np.random.default_rng(seed)
    return texts.text_levels(CAPTION, views, **styles, rng=rng, **given)


def test_words_are_a_subset_in_order():
    seen = {levels("words", seed)[0] for seed in range(200)}
    assert seen == {*("man", "red", "hair", "man, red", "man, hair", "red, hair", "man, red, hair")}


def test_levels_come_as_word_phrase_sentence():
    att = json.dumps({"a": "Red Hair"})
    word, phrase, sentence = levels("official", attributes=att)
    assert (word, sentence) == ("Red Hair", CAPTION.lower())
    assert phrase in texts.phrase_candidates(CAPTION)
    assert levels("words", 5) == levels("words", 5)
    assert {levels("official", s)[0] for s in range(60)} == set(
        texts.official_word_candidates(CAPTION)
    )
    assert len({levels("words", s)[1] for s in range(60)}) == 3


@pytest.mark.parametrize("changes", [{"words": ""}, {"attributes": '{"a": ""}'}])
def test_an_empty_word_level_becomes_the_caption(changes):
    style = "words" if "words" in changes else "official"
    assert levels(style, **changes)[0] == CAPTION.lower()


def test_unknown_styles_are_refused():
    with pytest.raises(ValueError, match="word_level"):
        levels("nltk")
    with pytest.raises(ValueError, match="phrase_level"):
        levels(phrases="nltk")


@pytest.mark.parametrize("style", texts.WORD_STYLES)
def test_the_draws_of_the_default_levels_stay_in_their_order(style):
    """First of the word level, then a phrase: resumed runs depend on it."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        word = texts.word_level(
            CAPTION, words="man, red, hair", attributes="", style=style, source="x", rng=rng
        )
        phrases = texts.phrase_candidates(CAPTION)
        phrase = phrases[rng.integers(len(phrases))]
        assert levels(style, seed) == [word, phrase, CAPTION.lower()]


def test_every_text_of_a_level_is_drawn_anew():
    views = ("phrase", "sentence", "phrase", "phrase")
    drawn = [levels(seed=seed, views=views) for seed in range(300)]
    assert all(texts[1] == CAPTION.lower() for texts in drawn)
    assert len({(a, c, d) for a, _, c, d in drawn}) == 27  # of three pieces, each on its own


@pytest.mark.parametrize(
    ("caption", "words", "expected"),
    [
        (
            "A man in a dark-blue T-shirt, black jeans; the bag he has is red.",
            "man, dark-blue, t-shirt, black, jeans, bag, red",
            ["dark-blue t-shirt", "black jeans"],
        ),
        ("A man and a bag.", "man, bag", ["man", "bag"]),
        ("Black jeans", "black, jeans", ["black jeans"]),
        ("He walks Here.", "", ["he walks here."]),
        ("", "", [""]),
    ],
)
def test_noun_phrases(caption, words, expected):
    assert texts.noun_phrases(caption, words) == expected


def test_one_or_two_noun_phrases_in_order():
    caption, known = "Red coat, big bag, long hair", "red, coat, big, bag, long, hair"
    rng = np.random.default_rng(0)
    drawn = [texts.phrase_level(caption, words=known, style="nouns", rng=rng) for _ in range(300)]
    one = {"red coat", "big bag", "long hair"}
    assert set(drawn) == one | {*("red coat, big bag", "red coat, long hair", "big bag, long hair")}
    assert 0.4 < sum(text in one for text in drawn) / 300 < 0.6


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "The man wears a light-colored v-neck t-shirt, dark blue jeans and a Nike backpack.",
            "man light-colored v-neck t-shirt dark blue jeans nike backpack",
        ),
        (
            "A woman with long black hair is wearing a red coat, grey trousers and white sneakers.",
            "woman long black hair red coat grey trousers white sneakers",
        ),
        (
            "An old lady carrying a green umbrella and two paper bags.",
            "old lady green umbrella paper bags",
        ),
        (
            "A young boy in a striped shirt and plaid shorts rides a bicycle.",
            "young boy striped shirt plaid shorts bicycle",
        ),
        (
            "She has a blonde ponytail and carries a brown leather handbag over her left shoulder.",
            "blonde ponytail brown leather handbag left shoulder",
        ),
        (
            "The girl is dressed in a sleeveless floral dress with high-heeled sandals.",
            "girl sleeveless floral dress high-heeled sandals",
        ),
        (
            "A tall man walks with his hands in the pockets of his navy hooded jacket.",
            "tall man hands pockets navy hooded jacket",
        ),
        (
            "HE WEARS ROUND GLASSES, a plaid scarf and khaki pants.",
            "round glasses plaid scarf khaki pants",
        ),
        ("two people are standing near a small wooden table", "people small wooden table"),
        (
            "a dog runs on the beach with an orange ball in its mouth",
            "dog beach orange ball mouth",
        ),
        ("", ""),
        (" ,. 😀", ""),
    ],
)
def test_nouns_and_adjectives(caption, expected):
    assert words.noun_adjective_words(caption) == expected.split()


def test_the_tagger_names_itself():
    assert words.tagger_version().startswith("HanTa 1.")
