"""Captions become token ids, and one caption becomes the three levels of MLA.

Owns the WordPiece tokenizer (BERT-uncased rules) and the splitting of a caption into its word,
phrase and sentence level.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from ivt_jax.data.words import tagger_tokens
from ivt_jax.errors import UserError

BERT_UNCASED_SIZE = 30522
BERT_UNCASED_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SEPARATORS = ("none", "sep")
WORD_STYLES = ("words", "official")
PHRASE_STYLES = ("pieces", "nouns")
LEVELS = ("word", "phrase", "sentence")  # of MLA, in the official order of views
_SHORTEST_PIECE = 6  # characters, counted before blanks are stripped, as the official code does


@dataclass(frozen=True)
class Tokenizer:
    """A WordPiece vocabulary and the ids of its special tokens; picklable."""

    path: Path
    sha256: str
    size: int
    pad_id: int
    unknown_id: int
    class_id: int
    separator_id: int
    mask_id: int
    wordpiece: tokenizers.Tokenizer

    def encode(
        self, captions: list[str], *, length: int, separator: str = "none"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Token ids of captions, padded and cut to a static length.

        [CLS] comes first; nothing follows the words ("none", the official code) or [SEP] does
        ("sep", Eq. 2 of the paper), inside the length. A caption without a single usable
        character becomes [CLS] [UNK], so every row holds a real token besides [CLS].

        Returns:
            token_ids int32 (n, L), token_mask bool (n, L), truncated bool (n,).

        Raises:
            ValueError: `length` has no room for a word, or `separator` is unknown.
        """
        if separator not in SEPARATORS:
            raise ValueError(f"separator is {separator!r}; choose one of {SEPARATORS}")
        room = length - (2 if separator == "sep" else 1)
        if room < 1:
            raise ValueError(f"a text length of {length} tokens has no room for a word")
        tail = [self.separator_id] if separator == "sep" else []
        token_ids = np.full((len(captions), length), self.pad_id, np.int32)
        token_mask = np.zeros((len(captions), length), bool)
        truncated = np.zeros(len(captions), bool)
        for row, words in enumerate(self._word_ids(captions)):
            ids = [self.class_id, *words[:room], *tail]
            token_ids[row, : len(ids)] = ids
            token_mask[row, : len(ids)] = True
            truncated[row] = len(words) > room
        return token_ids, token_mask, truncated

    def tokens(self) -> list[str]:
        """The vocabulary in the order of its ids."""
        table = self.wordpiece.get_vocab()
        return sorted(table, key=table.__getitem__)

    def _word_ids(self, captions: list[str]) -> list[list[int]]:
        # Lone surrogates come from broken files and cannot enter the tokenizer.
        clean = [caption.encode("utf-8", "ignore").decode("utf-8") for caption in captions]
        encoded = self.wordpiece.encode_batch_fast(clean, add_special_tokens=False)
        return [words.ids or [self.unknown_id] for words in encoded]


def load_tokenizer(vocabulary: str | Path) -> Tokenizer:
    """Reads a BERT-style vocabulary: a vocab.txt (one token a line) or a folder holding one.

    Text is lower-cased, stripped of accents and split at blanks, punctuation and CJK characters,
    as BERT-uncased does.

    Raises:
        UserError: there is no such file, it is no text, or it lacks a special token or repeats one.
    """
    path = Path(vocabulary)
    path = path / "vocab.txt" if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"there is no vocabulary at {path}. Give a vocab.txt or a folder that holds one: the "
            "embedded datasets carry their own (python -m ivt_jax prepare synthetic); for "
            f"BERT-uncased take the vocab.txt ({BERT_UNCASED_SIZE:,} lines) of a downloaded "
            "Hugging Face bert-base-uncased folder."
        )
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    table = _read_vocabulary(content, path)
    if len(table) == BERT_UNCASED_SIZE and sha256 != BERT_UNCASED_SHA256:
        warnings.warn(
            f"{path} has the {BERT_UNCASED_SIZE:,} tokens of BERT-uncased and differs from it "
            "(sha256); weights made with BERT-uncased will not fit its ids",
            stacklevel=2,
        )
    wordpiece = tokenizers.Tokenizer(models.WordPiece(table, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer(lowercase=True)
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = (table[token] for token in SPECIAL_TOKENS)
    return Tokenizer(path, sha256, len(table), *special, wordpiece=wordpiece)


def _read_vocabulary(content: bytes, path: Path) -> dict[str, int]:
    try:
        tokens = content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; give a BERT WordPiece vocab.txt") from error
    table = {token.rstrip("\r"): index for index, token in enumerate(tokens)}
    if len(table) != len(tokens):
        raise UserError(f"{path} repeats {len(tokens) - len(table)} token(s); it is no vocabulary")
    missing = [token for token in SPECIAL_TOKENS if token not in table]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; give a BERT WordPiece vocabulary")
    return table


def level_lengths(
    views: tuple[str, ...], *, text_length: int, word_length: int, phrase_length: int
) -> tuple[int, ...]:
    """The most tokens that a text of each view has; a level's 0 means `text_length`."""
    own = {"word": word_length, "phrase": phrase_length}
    return tuple(own.get(view) or text_length for view in views)


def image_count(views: tuple[str, ...], *, image_views: str) -> int:
    """Image views of a sample: one for each text ("level") or one that meets them all ("one")."""
    return 1 if image_views == "one" else len(views)


def phrase_candidates(caption: str) -> list[str]:
    """The phrases of a caption, of which MLA draws one; lower-cased.

    The official splitter: each sentence gives its longest comma piece and the rest of its pieces
    joined; what is five characters or less (blanks included) is left out. If nothing remains, the
    whole caption is the only phrase (the official code stops with an error there).
    """
    return _longest_and_rest(_without_brackets(caption)) or [caption.lower()]


def official_word_candidates(caption: str, *, source: str = "") -> list[str]:
    """The "words" the official code draws one of where a caption has no `att` strings.

    For "cuhk_pedes" the phrase splitter without removal of brackets, for every other source
    (ICFG-PEDES, RSTPReid) all comma pieces of six characters or more; lower-cased. Falls back to
    the whole caption.
    """
    if source == "cuhk_pedes":
        return _longest_and_rest(caption.lower()) or [caption.lower()]
    sentences = _without_brackets(caption).split(".")
    pieces = [piece for sentence in sentences for piece in sentence.split(",")]
    return _long_enough(pieces) or [caption.lower()]


def _without_brackets(caption: str) -> str:
    return caption.lower().strip(".").strip("[").strip("]")


def _longest_and_rest(text: str) -> list[str]:
    parts = []
    for sentence in text.split("."):
        pieces = sentence.split(",")
        longest = pieces.pop(max(range(len(pieces)), key=lambda i: len(pieces[i])))
        parts += [longest, ",".join(pieces).strip(",")]
    return _long_enough(parts)


def _long_enough(pieces: list[str]) -> list[str]:
    # A piece of blanks alone passes the official test and would be an empty text.
    return [piece.strip() for piece in pieces if len(piece) >= _SHORTEST_PIECE and piece.strip()]


def attribute_words(attributes: dict[str, str], rng: np.random.Generator) -> str:
    """The official CUHK-PEDES word level: the strings of a random non-empty set of keys.

    Their number is uniform in 1..len, the keys are drawn without replacement and joined by ",".
    """
    keys = list(attributes)
    return join_attributes(attributes, [keys[i] for i in _random_subset(len(keys), rng)])


def join_attributes(attributes: dict[str, str], keys: list[str]) -> str:
    """The strings of the drawn keys in the order drawn, joined as the official code does."""
    return ",".join(attributes[key] for key in keys)


def noun_phrases(caption: str, words: str) -> list[str]:
    """The runs of neighbouring nouns and adjectives in a caption ("red coat"); lower-cased.

    `words` are its nouns and adjectives joined by ", ", as a record stores them. A word that
    stands alone ("man") says little and is no phrase, unless there is no other; without a noun or
    adjective the caption is the only phrase.
    """
    known = set(words.split(", "))
    runs, run = [], []
    for token in [*tagger_tokens(caption.lower()), "."]:
        if token in known:
            run.append(token)
        elif run:
            runs.append(run)
            run = []
    long = [run for run in runs if len(run) > 1]
    return [" ".join(run) for run in long or runs] or [caption.lower()]


def word_level(
    caption: str, *, words: str, attributes: str, style: str, source: str, rng: np.random.Generator
) -> str:
    """One text of the word level of a caption; see `text_levels` for the arguments."""
    if style not in WORD_STYLES:
        raise ValueError(f"word_level is {style!r}; choose one of {WORD_STYLES}")
    if style == "words":
        known = words.split(", ") if words else []
        chosen = sorted(_random_subset(len(known), rng)) if known else []
        return ", ".join(known[i] for i in chosen) or caption.lower()
    table = json.loads(attributes) if attributes else {}
    if table:
        return attribute_words(table, rng) or caption.lower()
    candidates = official_word_candidates(caption, source=source)
    return candidates[rng.integers(len(candidates))]


def phrase_level(caption: str, *, words: str, style: str, rng: np.random.Generator) -> str:
    """One text of the phrase level of a caption; see `text_levels` for the arguments."""
    if style not in PHRASE_STYLES:
        raise ValueError(f"phrase_level is {style!r}; choose one of {PHRASE_STYLES}")
    if style == "pieces":
        candidates = phrase_candidates(caption)
        return candidates[rng.integers(len(candidates))]
    phrases = noun_phrases(caption, words)
    chosen = rng.choice(len(phrases), min(int(rng.integers(1, 3)), len(phrases)), replace=False)
    return ", ".join(phrases[i] for i in sorted(chosen))


def text_levels(
    caption: str,
    levels: tuple[str, ...],
    *,
    words: str,
    attributes: str,
    word_style: str,
    phrase_style: str,
    source: str,
    rng: np.random.Generator,
) -> list[str]:
    """A text of each of the named levels of one caption (MLA), drawn anew for each.

    Args:
        caption: the sentence level is all of it, lower-cased.
        levels: any of LEVELS, in any number.
        words: its nouns and adjectives joined by ", ", as stored in a record.
        attributes: the official `att` object as JSON, or "".
        word_style: "words" draws from `words` | "official" from `attributes`, else from pieces.
        phrase_style: "pieces" draws one comma piece | "nouns" one or two noun phrases.
        source: dataset name; "cuhk_pedes" has its own official fallback.
        rng: the only source of randomness.

    Returns:
        As many texts as levels, none of them empty unless the caption is.
    """

    def text(level: str) -> str:
        if level == "sentence":
            return caption.lower()
        if level == "phrase":
            return phrase_level(caption, words=words, style=phrase_style, rng=rng)
        options = {"attributes": attributes, "style": word_style, "source": source}
        return word_level(caption, words=words, **options, rng=rng)

    return [text(level) for level in levels]


def _random_subset(count: int, rng: np.random.Generator) -> list[int]:
    size = int(rng.integers(1, count + 1))
    return rng.choice(count, size, replace=False).tolist()
