"""`Text`: titles and descriptions, encoded by their words, pieces of words, and the order of the words."""

import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from collabkit.data.checks import whole_within
from collabkit.data.features.content import Block, Content, is_missing, says_nothing
from collabkit.data.features.encoders import BagEncoder, TextCNN
from collabkit.data.features.fields import Field
from collabkit.data.features.vectors import digest
from collabkit.data.runs import Runs

__all__ = ["Text", "text_words"]

WIDTHS = {"cnn": 96, "bag": 32}
MOST_WORDS, MOST_CODES = 10_000, 2**22
_LONGEST, _PIECES = 40, (3, 4, 5)  # letters of a word that are cut into pieces, and letters of a piece
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
_ALONE = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF),
          (0x20000, 0x3FFFF))  # scripts that write no spaces: Thai, Lao, Burmese, Khmer, kana, Han  # fmt: skip


class Text(Content):
    """The kind `'text'`: the title or description of an id.

    Words are runs of letters, marks and digits of any script, ignoring case and Unicode composition (NFKC). In scripts
    without spaces, and for symbols such as emoji, each character is a word. Words are hashed into a fixed number of
    codes, so words that are not in the training data need no vocabulary. A text without words counts as missing.

    Args:
        encoder: `'cnn'` finds groups of words in order (Kim 2014); `'bag'` takes the mean of words and pieces of words.
            Both are trained with the model. Or an external encoder, whose vectors are computed once and then used as
            dense numbers: a callable from a list of `m` texts to `(m, d)` numbers, an object with such an `encode` (a
            sentence-transformers model), the name of a sentence-transformers model, or a `TrainedEncoder` from
            `Model.encoder`.
        train: `'end_to_end'`, the default for built-in encoders, or `'frozen'`, for external ones; a `TrainedEncoder`
            can be either.
        width: output size of a built-in encoder; default 96 and 32.
        n_codes: for a built-in encoder, the number of codes into which words are hashed; default a power of two at
            least twice the number of distinct words of the training ids.
        max_words: maximum number of words; longer texts are truncated (and counted).
        cache: folder that stores the vectors of a frozen encoder between runs, for this encoder only.

    Raises:
        TypeError, ValueError: options contradict each other.
        ImportError: `encoder` is a model name and sentence-transformers is not installed.

    Example:
        >>> from collabkit.data.features import Features
        >>> from collabkit.data.vocab import Vocab
        >>> films = pd.DataFrame({'film': [1, 2, 3], 'title': ['A dark night', 'A night, not dark', None]})
        >>> Features.from_df(films, Vocab([1, 2, 3], 'film'), {'title': Text('bag')})
        Features of 3 'film' ids
          title: text, 32 numbers, bag, trained end to end
          note: 'title' is missing for 1 of 3 ids, which get zeros
    """

    kind, built_in = "text", ("cnn", "bag")

    def __init__(
        self, encoder: str | Callable = "cnn", *, train: str | None = None, width: int | None = None,
        n_codes: int | None = None, max_words: int = 64, cache: str | Path | None = None,
    ):  # fmt: skip
        if isinstance(encoder, str) and encoder not in self.built_in:
            encoder = _sentence_transformer(encoder)
        if hasattr(encoder, "encode") and not isinstance(encoder, str):
            encoder = encoder.encode
        self.n_codes = None if n_codes is None else whole_within("n_codes", n_codes, 1, MOST_CODES)
        self.max_words = whole_within("max_words", max_words, 1, MOST_WORDS)
        super().__init__(encoder, train, width, cache)

    def blocks(self, name: str, values: pd.Series, notes: dict) -> Iterator[Block]:
        for first in range(0, len(values), 1024):
            texts = [_CONTROL.sub("", text) for text in _texts(name, values.iloc[first : first + 1024])]
            there = np.array([bool(text.strip()) for text in texts])
            texts = [text for text, is_there in zip(texts, there, strict=True) if is_there]
            yield Block(texts, [digest(text.encode()) for text in texts], there)

    def learned_options(self, name: str, values: pd.Series) -> dict:
        found = {tuple(text_words(text, self.max_words)[0]) for text in _texts(name, values)}
        texts = found - {()}
        says_nothing(name, len(texts), len(found))
        kinds = {piece for text in texts for word in text for piece in _spelled(word, self.own_encoder == "bag")}
        n_codes = self.n_codes or min(2**17, 2 ** max(8, int(np.ceil(np.log2(2 * len(kinds))))))
        width = self.width or WIDTHS.get(self.own_encoder, 0) if isinstance(self.own_encoder, str) else 0
        return {"encoder": self.own_encoder, "n_codes": n_codes, "max_words": self.max_words, "width": width}

    def contents(self, field: Field, values: pd.Series, notes: dict) -> Runs:
        n_codes, most, pieces = field.options["n_codes"], field.options["max_words"], field.options["encoder"] == "bag"
        rows = []
        for label, text in zip(values.index, _texts(field.name, values), strict=True):
            words, cut = text_words(text, most)
            if cut:
                notes.setdefault(f"text(s) of {field.name!r} are cut off after {most:,} words", []).append(label)
            if text and not words:
                notes.setdefault(f"text(s) of {field.name!r} have no words, only spaces and signs", []).append(label)
            rows.append([code for word in words for code in _codes(word, n_codes, pieces)])
        lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
        return Runs(lengths.cumsum(0), torch.tensor([code for row in rows for code in row], dtype=torch.int64))

    def parts(self, field: Field, content, grid: int) -> tuple[pd.DataFrame, list[torch.Tensor]]:
        options = field.options
        words = text_words(_texts(field.name, pd.Series([content], dtype=object))[0], options["max_words"])[0]
        lengths = [len(_codes(word, options["n_codes"], options["encoder"] == "bag")) for word in words]
        return pd.DataFrame({"word": words}), list(torch.arange(sum(lengths)).split(lengths))

    def module(self, field: Field) -> BagEncoder | TextCNN:
        cls = {"cnn": TextCNN, "bag": BagEncoder}[field.options["encoder"]]
        return cls(field.options["n_codes"], field.width)

    def fits(self, field: Field, contents: Runs) -> bool:
        options, codes = field.options, contents.values
        if contents.values.dtype != torch.int64 or contents.values.ndim != 1 or options["max_words"] > MOST_WORDS:
            return False
        longest = max(contents.lengths.tolist(), default=0)
        within = options["encoder"] == "bag" or longest <= options["max_words"]
        return within and bool(((codes > 0) & (codes <= options["n_codes"])).all())

    def __reduce__(self):
        return Text, ()  # without the encoder, as in an artefact


def text_words(text: str, most: int) -> tuple[list[str], bool]:
    """The first `most` words of a text, and whether there were more.

    Example:
        >>> text_words('The ＣＡＦÉ, \\x00 not: 夜行 \\N{FIRE}', 10)
        (['the', 'café', 'not', '夜', '行', '🔥'], False)
    """
    short = text[: 50 * most]  # so that long texts take no more time
    words = unicodedata.normalize("NFKC", short).casefold().translate(_SIGNS).split()
    return words[:most], len(words) > most or len(short) < len(text)


class _Signs(dict):
    """The replacement of each character: itself in a word, set apart, a space, or nothing; computed at first use."""

    def __missing__(self, code: int) -> str | None:
        sign, category = chr(code), unicodedata.category(chr(code))
        if sign in "'’ʼ":
            made = None
        elif category in ("So", "Sc") or any(low <= code <= high for low, high in _ALONE):
            made = f" {sign} "
        elif category[0] in "LNM":
            made = sign
        else:
            made = None if category[0] == "C" and not sign.isspace() else " "
        self[code] = made
        return made


_SIGNS = _Signs()


def _spelled(word: str, pieces: bool) -> list[str]:
    """The word, and with `pieces` its parts of three to five letters, ends marked."""
    if not pieces:
        return [word]
    spelled = f"<{word[:_LONGEST]}>"
    found = [spelled[j : j + n] for n in _PIECES for j in range(len(spelled) - n + 1)]
    return list(dict.fromkeys([word, *(piece for piece in found if piece != spelled)]))


@lru_cache(maxsize=200_000)
def _codes(word: str, n_codes: int, pieces: bool) -> tuple[int, ...]:
    """The codes of a word, 1 to `n_codes`, the same on every machine."""
    return tuple(1 + zlib.crc32(part.encode()) % n_codes for part in _spelled(word, pieces))


def _texts(name: str, values: pd.Series) -> list[str]:
    """The values as texts, an empty one where one is missing."""
    odd = next((v for v in values if not isinstance(v, str) and not is_missing(v)), None)
    if odd is not None:
        raise TypeError(f"feature {name!r} is a text, but holds {odd!r}, a {type(odd).__name__}; convert it to texts")
    return [value if isinstance(value, str) else "" for value in values]


def _sentence_transformer(name: str):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            f"encoder={name!r} is neither 'cnn' nor 'bag', so it names a model of sentence-transformers, which is "
            "not installed: pip install sentence-transformers"
        ) from error
    return SentenceTransformer(name)
