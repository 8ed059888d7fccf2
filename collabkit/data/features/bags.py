"""`Bag`: many-valued features with weights by rarity or learned weights, optionally hashed or shared."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collabkit.data.checks import one_of, whole_within
from collabkit.data.features.fields import Categories, Field, SaysNothing, bag, rarity
from collabkit.data.runs import Runs
from collabkit.data.unique import sorted_unique

__all__ = ["Bag", "one_vocabulary"]

MOST_BUCKETS, SHOWN = 2**22, 3


class Bag(Categories):
    """The kind `'bag'`: any number of values per id, such as tags, ingredients or favourite genres, as in `'multi'`.

    An id gets the weighted mean of the embeddings of its values. No table of ids by values is ever created.

    Args:
        weights: None gives all values of an id the same weight. `'idf'` weights them by rarity,
            `ln((n + 1) / (n_c + 1)) + 1` if `n_c` of `n` training ids have the value. `'attention'` learns a number for
            each value with the model and applies a softmax over the id's values; at first all weights are equal.
        buckets: number of codes into which values are hashed (CRC-32, the same on every machine), so that values that
            are not in the training data have an embedding too; several values may share a code. By default each value
            of the training ids has its own code, and other values are ignored.
        share: a name. All bags of users and items with this name have the same values and share one embedding table,
            so that the likes of a user and the values of an item are comparable. Biases are separate.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> from collabkit.data.features import Features
        >>> from collabkit.data.vocab import Vocab
        >>> films = pd.DataFrame({'film': [1, 2, 3], 'tags': ['dark|night', 'night', 'night|sea']})
        >>> features = Features.from_df(films, Vocab([1, 2, 3], 'film'), {'tags': Bag(weights='idf')})
        >>> features
        Features of 3 'film' ids
          tags: bag, 3 categories, by idf
        >>> features.matrix(torch.tensor([1])).round(decimals=2)  # (none), dark, night, sea
        tensor([[0.0000, 0.6300, 0.3700, 0.0000]])
    """

    of_moments = False

    def __init__(self, weights: str | None = None, *, buckets: int | None = None, share: str | None = None):
        super().__init__(many=True)
        one_of("weights", weights, (None, "idf", "attention"))
        if share is not None and not (isinstance(share, str) and share):
            raise ValueError(f"share must be a name, the same for all bags that share their values, got {share!r}")
        self.weights, self.share = weights, share
        self.buckets = None if buckets is None else whole_within("buckets", buckets, 1, MOST_BUCKETS)

    def fit(self, name: str, values: pd.Series, columns: Sequence[str] = ()) -> Field:
        rows = self._lists(name, values)
        texts = sorted({text for row in rows for text in row})
        if len({tuple(sorted(row)) for row in rows}) < 2:
            raise SaysNothing(name, f"the only value is {texts[0]!r}" if texts else "all are missing")
        options = {"weights": self.weights, "buckets": self.buckets, "share": self.share}
        names = texts if self.buckets is None else _bucket_names(texts, self.buckets)
        field = Field(name, "bag", tuple(names), columns=tuple(columns), options=options, maker=self)
        if self.weights == "idf":
            having = self.encode(field, values)[0].values.bincount(minlength=field.size)
            options["idf"] = rarity(len(rows), having.numpy()).astype(np.float32).tolist()
        return field

    def encode(self, field: Field, values: pd.Series) -> tuple[Runs, int, list[str]]:
        buckets = field.options["buckets"]
        if buckets is None:
            return super().encode(field, values)
        lists = self._lists(field.name, values)
        lengths = np.array([len(row) for row in lists], dtype=np.int64)
        codes = np.array([_code(text, buckets) for row in lists for text in row], dtype=np.int64)
        pairs = sorted_unique(np.repeat(np.arange(len(lists)), lengths) * (buckets + 1) + codes)
        return bag(*np.divmod(pairs, buckets + 1), len(lists)), int((lengths == 0).sum()), []

    def code_weights(self, field: Field) -> Tensor | None:
        return torch.tensor(field.options["idf"]) if "idf" in field.options else None

    def has_attention(self, field: Field) -> bool:
        return field.options["weights"] == "attention"

    def describe(self, field: Field) -> str:
        what = f"{len(field.categories):,} {'categories' if field.options['buckets'] is None else 'buckets'}"
        by, share = field.options["weights"], field.options["share"]
        return what + (f", by {by}" if by else "") + (f", shared as {share!r}" if share else "")


def one_vocabulary(fields: Sequence[Field]) -> list[tuple[Field, Tensor]]:
    """Fields that share their values, with the categories of all of them; and for each its old codes' new ones `(p,)`.

    Raises:
        ValueError: they have other options.
    """
    kinds = {(field.options["weights"], field.options["buckets"]) for field in fields}
    if len(kinds) > 1:
        raise ValueError(f"bags that share {fields[0].options['share']!r} need the same weights and buckets, got "
                         f"{sorted(kinds, key=str)} for {[field.name for field in fields]}")  # fmt: skip
    if fields[0].options["buckets"] is not None:
        return [(field, torch.arange(field.size)) for field in fields]
    names = sorted({name for field in fields for name in field.categories})
    place, found = {name: j for j, name in enumerate(names, start=1)}, []
    for field in fields:
        codes = torch.tensor([0, *(place[name] for name in field.categories)])
        options = dict(field.options)
        if "idf" in options:  # for values that no training id of this side has: the rarest
            weights = torch.full((len(names) + 1,), max(options["idf"]))
            weights[codes] = torch.tensor(options["idf"])
            options["idf"] = weights.tolist()
        found.append((replace(field, categories=tuple(names), options=options), codes))
    return found


def _bucket_names(texts: list[str], buckets: int) -> list[str]:
    """What each bucket is called: by the training values in it, or its number."""
    there: dict[int, list[str]] = {}
    for text in texts:
        there.setdefault(_code(text, buckets), []).append(text)
    more = lambda held: f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""  # noqa: E731
    named = {code: ", ".join(held[:SHOWN]) + more(held) for code, held in there.items()}
    return [named.get(code, f"bucket {code}") for code in range(1, buckets + 1)]


@lru_cache(maxsize=200_000)
def _code(text: str, buckets: int) -> int:
    """The code of a value, 1 to `buckets`, the same on every machine."""
    return 1 + zlib.crc32(text.encode(errors="surrogatepass")) % buckets
