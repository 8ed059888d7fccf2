"""`CollabInterpretation`: what a trained model has learned, as DataFrames of numbers and matplotlib Axes."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.axes import Axes

from collabkit.contributions import feature_effects, feature_importance, feature_parts
from collabkit.evaluate import predict_ratings
from collabkit.interactions import Interactions
from collabkit.models import CollFilter
from collabkit.models.base import evaluating
from collabkit.plots import plot_bars, plot_map
from collabkit.recommender import Recommender

__all__ = ["CollabInterpretation"]


class CollabInterpretation:
    """Biases, embedding maps, explanations and worst errors of a trained model.

    Make it with `from_learner(learn)`, or from a `Recommender`.

    Args:
        recommender: the model with its ids and interactions.

    Example:
        >>> interp = CollabInterpretation.from_learner(learn)         # doctest: +SKIP
        >>> interp.item_bias(5)                                       # doctest: +SKIP
        >>> interp.plot_pca(n=50)                                     # doctest: +SKIP
    """

    def __init__(self, recommender: Recommender):
        self.recommender, self.model = recommender, recommender.model
        self.train, self.valid = recommender.train, recommender.valid

    @classmethod
    def from_learner(cls, learn) -> CollabInterpretation:
        """The interpretation of a `CollabLearner`'s model."""
        return cls(learn.recommender)

    def item_bias(self, n: int | None = 10, largest: bool = True) -> pd.DataFrame:
        """The `n` items (None: all) with the largest or smallest bias: liked or disliked whatever the taste.

        Returns:
            DataFrame with the item column, `bias` (in logits, as in `model.i_bias`), `effect` (what the item adds for
            an average user, the factors' part included, as in `why`), `n_ratings` and `mean_rating` in training
            (without ratings only the number of events, `n_ratings`).
        """
        return self._bias(n, largest, is_item=True)

    def user_bias(self, n: int | None = 10, largest: bool = True) -> pd.DataFrame:
        """The `n` users (None: all) with the largest or smallest bias: generous or strict whatever the item."""
        return self._bias(n, largest, is_item=False)

    def similar_items(self, item, k: int = 10) -> pd.DataFrame:
        """The `k` nearest items by cosine; see `Recommender.similar_items`."""
        return self.recommender.similar_items(item, k)

    def similar_users(self, user, k: int = 10) -> pd.DataFrame:
        """The `k` nearest users by cosine; see `Recommender.similar_users`."""
        return self.recommender.similar_users(user, k)

    def plot_bias(self, n: int = 10, *, is_item: bool = True, ax: Axes | None = None) -> Axes:
        """Bars of the `n` largest and the `n` smallest biases.

        Returns:
            The axes.
        """
        vocab = self.train.items if is_item else self.train.users
        half = min(n, len(self._trained(is_item)) // 2)  # no id at both ends
        ends = [self._bias(half, largest, is_item) for largest in (True, False)]
        return plot_bars(pd.concat([ends[0], ends[1][::-1]]), "bias", vocab.name, ax=ax)

    def pca(self, n_components: int = 3, items=None, *, is_item: bool = True) -> pd.DataFrame:
        """Principal components of the factors, largest variance first.

        Args:
            n_components: how many.
            items: ids to fit and project, e.g. the most rated; default all with training rows. With `is_item=False`
                they are users.

        Returns:
            DataFrame indexed by id with the columns `pc1`, `pc2`, ...; `attrs['explained_variance']` holds each
            component's share of the variance. Signs are fixed: the entry of largest size in each is positive.

        Raises:
            ValueError: more components than factors or than ids.
        """
        vocab = self.train.items if is_item else self.train.users
        rows = self._trained(is_item) if items is None else torch.from_numpy(vocab.encode(items, unknown="raise"))
        factors = self.model.factors(is_item)[rows].double()
        if not 1 <= n_components <= min(factors.shape):
            raise ValueError(
                f"n_components must lie in 1..{min(factors.shape)} for {factors.shape[0]} ids of {factors.shape[1]} "
                f"factors, got {n_components}"
            )
        left, singular, _ = torch.linalg.svd(factors - factors.mean(0), full_matrices=False)
        points = (left * singular)[:, :n_components]
        largest = points.gather(0, points.abs().argmax(0, keepdim=True))
        names = [f"pc{j}" for j in range(1, n_components + 1)]
        table = pd.DataFrame((points * largest.sign()).numpy(), index=vocab.decode(rows.numpy()), columns=names)
        share = singular.square() / singular.square().sum().clamp(min=1e-12)
        table.index.name = vocab.name
        table.attrs["explained_variance"] = share[:n_components].tolist()
        return table

    def plot_pca(
        self, n: int = 50, dims: tuple[int, int] = (1, 2), *, items=None, n_fit: int = 1000, ax: Axes | None = None
    ) -> Axes:
        """A map of items by two principal components of their factors, with labels that do not collide.

        Args:
            n: how many items to draw, the most rated ones.
            dims: the two components, counted from 1.
            items: or the ids to draw.
            n_fit: the components are fitted on the `n_fit` most rated items (and those drawn).
            ax: where to draw; a new figure by default.

        Returns:
            The axes.
        """
        if len(dims) != 2 or min(dims) < 1:
            raise ValueError(f"dims must be two components counted from 1, got {dims!r}")
        popular = self._most_rated(max(n_fit, n))
        drawn = popular[:n] if items is None else pd.Index(items)
        fitted = self.pca(max(dims), popular.union(drawn, sort=False))
        x, y = (f"pc{d}" for d in dims)
        ax = plot_map(fitted.loc[drawn].reset_index(), x, y, fitted.index.name, ax=ax)
        share = fitted.attrs["explained_variance"]
        for axis, d in zip("xy", dims, strict=True):
            ax.set(**{f"{axis}label": f"component {d} ({share[d - 1]:.0%} of variance)"})
        return ax

    def factor_examples(self, component: int = 1, n: int = 10, *, n_fit: int = 1000) -> pd.DataFrame:
        """The items at both ends of a principal component, from which its meaning is read ("seriousness", say).

        Args:
            component: counted from 1.
            n: items at each end.
            n_fit: among the `n_fit` most rated items.

        Returns:
            DataFrame with the columns `end` ('high' or 'low'), the item column, `value`, `n_ratings`.
        """
        values = self.pca(component, self._most_rated(n_fit))[f"pc{component}"].rename("value")
        values = values.sort_values(ascending=False).reset_index()
        counts = torch.bincount(self.train.item_idx, minlength=self.train.n_items)
        values["n_ratings"] = counts[self.train.items.encode(values[self.train.items.name])].numpy()
        n = min(n, len(values) // 2)
        ends = [values.head(n).assign(end="high"), values.tail(n)[::-1].assign(end="low")]
        return pd.concat(ends, ignore_index=True)[["end", self.train.items.name, "value", "n_ratings"]]

    def why(self, user, item) -> pd.DataFrame:
        """The parts of a score, which add up to it.

        The score of the model splits into four parts, as in an analysis of variance around the average user and item:
        `global` (an average item for an average user), `user bias` and `item bias` (what the user adds for an average
        item, and the item for an average user: their bias and the factors' average effect), and `factors` (what is
        between this user and this item).

        Args:
            user, item: one external id each.

        Returns:
            DataFrame with the columns `part`, `value` (in logits) and `rating`, the predicted rating from the parts so
            far. The last row, `score`, is the sum and the prediction.

        Raises:
            TypeError: the model has no biases and factors to add up (`use_nn`).
            KeyError: an unknown id.
        """
        model = self._with_factors("why")
        users, items = self.train.users, self.train.items
        u = torch.from_numpy(users.encode([user], unknown="raise"))
        i = torch.from_numpy(items.encode([item], unknown="raise"))
        with torch.no_grad():
            device = model.u_bias.weight.device
            score = model.score(u.to(device), i.to(device)).cpu()  # (1,)
            p, q = (self._centred(is_item)[row] for is_item, row in ((False, u), (True, i)))
            parts = {
                "user bias": self._effects(False)[u],
                "item bias": self._effects(True)[i],
                "factors": (p * q).sum(-1),
            }
            parts = {"global": score - sum(parts.values()), **parts}
            values = torch.cat([*parts.values()])  # (4,)
            so_far = model.activation(values.cumsum(0))
        return pd.DataFrame(
            {
                "part": [*parts, "score"],
                "value": torch.cat([values, score]).numpy(),
                "rating": torch.cat([so_far, model.activation(score)]).numpy(),
            }
        )

    def feature_effects(self, *, is_item: bool = True) -> pd.DataFrame:
        """What each value of the items' (or users') features adds to the score, largest first.

        Returns:
            DataFrame with `feature`, `value`, `n` (trained ids that have it), `effect` (in logits, for an average user,
            relative to the feature's mean; of a number, per standard deviation) and `strength` (length of its factors:
            how much it divides the users).

        Raises:
            TypeError: the model is no `CollFilter`, or has no such features.
        """
        return feature_effects(self.recommender, is_item)

    def plot_feature_effects(self, n: int = 10, *, is_item: bool = True, ax: Axes | None = None) -> Axes:
        """Bars of the `n` largest and the `n` smallest effects of `feature_effects`.

        Returns:
            The axes.
        """
        table = self.feature_effects(is_item=is_item)
        half = min(n, len(table) // 2)  # no value at both ends
        table = pd.concat([table.head(half), table.tail(half)])
        return plot_bars(table.assign(value=table["feature"] + ": " + table["value"]), "effect", "value", ax=ax)

    def feature_parts(self, user, item) -> pd.DataFrame:
        """What each of an item's features adds to its score for a user, compared with an average item.

        Args:
            user, item: one external id each.

        Returns:
            DataFrame with `part` (the features, `the item itself`, and their `sum`) and `value` in logits. Of an item
            without ratings, `the item itself` is what its features foretell of its own row; see `models.cold_rows`.

        Raises:
            TypeError: the model is no `CollFilter`, or has no item features.
            KeyError: an unknown id.
        """
        return feature_parts(self.recommender, user, item)

    def feature_importance(
        self, on="valid", *, metric: str | None = None, n_repeats: int = 5, seed: int = 0
    ) -> pd.DataFrame:
        """How much worse the predictions get when a feature's rows are shuffled among the ids (Breiman 2001).

        Args:
            on: as of `Recommender.evaluate`.
            metric: one of its metrics; default RMSE, or NDCG (at 10) without ratings.
            n_repeats, seed: shuffles of each feature.

        Returns:
            DataFrame with `side`, `feature`, the metric as it is, `loss_when_shuffled` (positive: the feature helps)
            and its standard deviation `sd` over the shuffles.

        Raises:
            TypeError: the model has no features.
        """
        return feature_importance(self.recommender, on, metric=metric, n_repeats=n_repeats, seed=seed)

    def top_losses(self, n: int = 10, largest: bool = True, *, on: str = "valid") -> pd.DataFrame:
        """The rows whose prediction is worst (or best, with `largest=False`).

        Args:
            n: how many.
            on: `'valid'` or `'train'`.

        Returns:
            DataFrame with the user, item and rating columns, `prediction` and `loss` (squared error).
        """
        parts: dict[str, Interactions | None] = {"valid": self.valid, "train": self.train}
        if on not in parts or parts[on] is None:
            raise ValueError(f"on must be one of {[k for k, v in parts.items() if v is not None]}, got {on!r}")
        data = parts[on]
        if data.rating is None:
            raise ValueError("top_losses compares predictions with ratings, and these events have none")
        with evaluating(self.model):
            prediction = predict_ratings(self.model, data.user_idx, data.item_idx)
        loss = (prediction - data.rating).square()
        rows = torch.argsort(loss, descending=largest, stable=True)[:n].numpy()
        table = data.take(rows).to_df()
        return table.assign(prediction=prediction.numpy()[rows], loss=loss.numpy()[rows])

    def _bias(self, n: int | None, largest: bool, is_item: bool) -> pd.DataFrame:
        model = self._with_factors("item_bias" if is_item else "user_bias")
        vocab = self.train.items if is_item else self.train.users
        idx = self.train.item_idx if is_item else self.train.user_idx
        rows = self._trained(is_item)
        bias = model.parts(is_item)[1][rows, 0]
        order = torch.argsort(bias, descending=largest, stable=True)[:n]
        rows, bias = rows[order], bias[order]
        counts = torch.bincount(idx, minlength=len(vocab))
        table = pd.DataFrame({vocab.name: vocab.decode(rows.numpy())})
        table["bias"] = bias.numpy()
        table["effect"] = self._effects(is_item)[rows].numpy()
        table["n_ratings"] = counts[rows].numpy()
        if self.train.rating is None:
            return table
        sums = torch.bincount(idx, self.train.rating.double(), minlength=len(vocab))
        return table.assign(mean_rating=(sums / counts.clamp(min=1))[rows].numpy())

    def _effects(self, is_item: bool) -> torch.Tensor:
        """What each id adds to the score of an average other side, `(n_rows,)` logits: 0 on average."""
        factors, bias = self.model.parts(is_item)
        others = self.model.factors(not is_item)[self._trained(not is_item)].mean(0)
        total = bias.squeeze(1) + factors @ others
        return total - total[self._trained(is_item)].mean()

    def _centred(self, is_item: bool) -> torch.Tensor:
        """The factors `(n_rows, d)` less their mean over the ids with training data."""
        factors = self.model.factors(is_item)
        return factors - factors[self._trained(is_item)].mean(0)

    def _most_rated(self, n: int) -> pd.Index:
        """Ids of the `n` items with the most training rows, the most rated first; ties in vocabulary order."""
        counts = torch.bincount(self.train.item_idx, minlength=self.train.n_items)
        rows = torch.argsort(counts, descending=True, stable=True)[: min(n, int((counts > 0).sum()))]
        return self.train.items.decode(rows[rows > 0].numpy())

    def _trained(self, is_item: bool) -> torch.Tensor:
        """Rows `(m,)` of the ids that have training data, ascending."""
        return (self.train.item_idx if is_item else self.train.user_idx).unique()

    def _with_factors(self, what: str) -> CollFilter:
        if not isinstance(self.model, CollFilter):
            raise TypeError(
                f"{what} needs a dot-product model with biases (CollFilter), this one is {type(self.model).__name__}; "
                "pca, plot_pca and factor_examples work for it, and top_losses if there are ratings"
            )
        return self.model
