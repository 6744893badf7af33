"""BLIP's words: BERT's uncased vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from facegraph.errors import ConfigError, ModelMissing

PAD, UNKNOWN, BEGIN, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = [PAD, UNKNOWN, BEGIN, END, "[MASK]"]

CONTINUES = "##"
"""Begins a piece that goes on with the word before it."""

APOSTROPHE = re.compile(r"(?<=\w) ' (?=(?:s|t|d|m|ll|re|ve)\b)")
"""Stands apart in the vocabulary; the authors' decoder joins it too."""


class BlipTokenizer:
    """Text to tokens and back. Nothing that a prompt says is taken for a special token.

    size: number of words; the model adds tokens of its own behind them
    pad, end: their tokens
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        """``source`` is named where the vocabulary is none of BERT's: ConfigError."""
        words = tokenizer.get_vocab()
        if absent := [word for word in (PAD, UNKNOWN, END) if word not in words]:
            raise ConfigError(f"{source} is no vocabulary of BERT's: it lacks {', '.join(absent)}")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.size = max(words.values()) + 1
        self.pad, self.end = words[PAD], words[END]

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text`` alone; none begins or ends it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of what followed a prompt; special and unknown tokens say nothing."""
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        text = " ".join(text.removeprefix(CONTINUES).split())
        return APOSTROPHE.sub("'", text)


def read_tokenizer(folder: Path) -> BlipTokenizer:
    """From `tokenizer.json` or `vocab.txt` in ``folder``.

    Raises ModelMissing where neither is there, ConfigError where it is not what it should be.
    """
    whole, words = folder / "tokenizer.json", folder / "vocab.txt"
    if whole.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(whole))
        except Exception as error:  # the library raises nothing more special
            raise ConfigError(f"{whole} is no tokenizer: {error}") from error
        return BlipTokenizer(tokenizer, str(whole))
    if words.is_file():
        return BlipTokenizer(_uncased(words), str(words))
    raise ModelMissing(
        f"BLIP's vocabulary is missing: put vocab.txt of bert-base-uncased "
        f"(30,522 lines, [PAD] first) into {folder}"
    )


def _uncased(path: Path) -> Tokenizer:
    try:
        # str.splitlines would also end a line at characters that are words here.
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    words = {word: token for token, word in enumerate(lines)}
    if len(words) != len(lines):
        raise ConfigError(f"{path} holds a word twice")
    tokenizer = Tokenizer(models.WordPiece(words, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUES, cleanup=True)
    tokenizer.add_special_tokens([word for word in SPECIAL if word in words])
    return tokenizer
