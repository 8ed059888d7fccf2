"""`CollabInterpretation`: shows what a trained model has learned, as DataFrames and matplotlib Axes."""

from collections.abc import Sequence
from numbers import Integral
from operator import attrgetter

import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from collabkit.data.checks import shown, whole
from collabkit.data.interactions import Interactions
from collabkit.evaluate.tables import predict_ratings
from collabkit.interpret.content import explain_content, plot_content
from collabkit.interpret.contributions import (
    feature_effects,
    feature_importance,
    feature_parts,
    plot_feature_effects,
)  # fmt: skip
from collabkit.interpret.plots import plot_bars, plot_calibration, plot_map
from collabkit.interpret.tradeoffs import plot_tradeoff
from collabkit.models import CollFilter
from collabkit.models.base import evaluating, say_untrained
from collabkit.models.scorers import all_finite
from collabkit.serve import Recommender
from collabkit.serve.recommender import as_recommender

__all__ = ["CollabInterpretation"]


class CollabInterpretation:
    """Biases, embedding maps, explanations and largest errors of a trained model.

    Create it with `from_learner(learn)`, or from a `Recommender`.

    Args:
        recommender: the model with its ids and interactions.

    Example:
        >>> interp = CollabInterpretation.from_learner(learn)         # doctest: +SKIP
        >>> interp.item_bias(5)                                       # doctest: +SKIP
        >>> interp.plot_pca(n=50)                                     # doctest: +SKIP
    """

    feature_effects, plot_feature_effects = feature_effects, plot_feature_effects
    feature_parts, feature_importance = feature_parts, feature_importance
    plot_tradeoff = plot_tradeoff
    explain_content, plot_content = explain_content, plot_content

    def __init__(self, recommender: Recommender):
        recommender = as_recommender("CollabInterpretation", recommender)
        say_untrained(recommender.model)
        self.recommender = recommender

    model = property(attrgetter("recommender.model"), doc="The model, as it is now.")
    train = property(attrgetter("recommender.train"), doc="The training interactions, with all ids there are now.")
    valid = property(attrgetter("recommender.valid"), doc="The validation interactions, or None.")

    @classmethod
    def from_learner(cls, learn) -> "CollabInterpretation":
        """Create the interpretation of a `CollabLearner`'s model.

        Raises:
            TypeError: `learn` is no learner.
        """
        return cls(learn)

    def item_bias(self, n: int | None = 10, largest: bool = True) -> pd.DataFrame:
        """Return the `n` items (None: all) with the largest or smallest bias: liked or disliked regardless of taste.

        Returns:
            DataFrame with the item column, `bias` (in logits, as in `model.i_bias`), `effect` (what the item adds for
            an average user, including the contribution of the factors, as in `why`), `n_ratings` and `mean_rating` in
            training (without ratings only the number of events, `n_ratings`).
        """
        return self._bias(n, largest, "item")

    def user_bias(self, n: int | None = 10, largest: bool = True) -> pd.DataFrame:
        """Return the `n` users (None: all) with the largest or smallest bias: generous or strict for every item."""
        return self._bias(n, largest, "user")

    def similar_items(self, item, k: int = 10, *, by: str = "vectors") -> pd.DataFrame:
        """Return the `k` nearest items by learned vectors or by features; see `Recommender.similar_items`."""
        return self.recommender.similar_items(item, k, by=by)

    def similar_users(self, user, k: int = 10) -> pd.DataFrame:
        """Return the `k` nearest users by cosine; see `Recommender.similar_users`."""
        return self.recommender.similar_users(user, k)

    def plot_bias(self, n: int = 10, *, side: str = "item", ax: Axes | None = None) -> Axes:
        """Plot the `n` largest and the `n` smallest biases as bars."""
        half = min(whole("n", n), len(self._trained(side)) // 2)  # so that no id is at both ends
        ends = pd.concat([self._bias(half, True, side), self._bias(half, False, side)[::-1]])
        return plot_bars(ends, "bias", self.train.vocab(side).name, ax=ax)

    def pca(self, n_components: int = 3, items=None, *, side: str = "item") -> pd.DataFrame:
        """Return the principal components of the factors, largest variance first.

        Args:
            n_components: number of components.
            items: ids to fit and project, e.g. the most rated; default all with training rows. With `side='user'`
                they are user ids.

        Returns:
            DataFrame indexed by id with the columns `pc1`, `pc2`, ...; `attrs['explained_variance']` holds each
            component's share of the variance. Signs are fixed: the entry with the largest absolute value is positive.

        Raises:
            ValueError: there are more components than factors or ids.
        """
        rows = self._trained(side)
        vocab = self.train.vocab(side)
        rows = rows if items is None else torch.from_numpy(vocab.encode(items, unknown="raise"))
        factors = self.model.factors(side)[rows].double()
        if not isinstance(n_components, Integral) or not 1 <= n_components <= min(factors.shape):
            raise ValueError(
                f"n_components must lie in 1..{min(factors.shape)} for {factors.shape[0]} ids of {factors.shape[1]} "
                f"factors, got {shown(n_components)}"
            )
        left, singular, _ = torch.linalg.svd(factors - factors.mean(0), full_matrices=False)
        points = (left * singular)[:, :n_components]
        points = points * points.gather(0, points.abs().argmax(0, keepdim=True)).sign()
        names = [f"pc{j}" for j in range(1, n_components + 1)]
        table = pd.DataFrame(points.numpy(), vocab.decode(rows.numpy()).rename(vocab.name), names)
        share = singular.square() / singular.square().sum().clamp(min=1e-12)
        table.attrs["explained_variance"] = share[:n_components].tolist()
        return table

    def plot_pca(
        self, n: int = 50, dims: tuple[int, int] = (1, 2), *, items=None, n_fit: int = 1000, ax: Axes | None = None
    ) -> Axes:
        """Plot items on two principal components of their factors, with labels that do not overlap.

        Args:
            n: number of items to plot, the most rated ones; the first 50 have labels.
            dims: the two components, counted from 1.
            items: alternatively, the ids to plot.
            n_fit: the components are fitted on the `n_fit` most rated items (and the plotted ones).
            ax: axes to plot on; a new figure by default.
        """
        if not isinstance(dims, Sequence) or len(dims) != 2 or not all(isinstance(d, int) and d > 0 for d in dims):
            raise ValueError(f"dims must be two components counted from 1, e.g. (1, 2), got {shown(dims)}")
        n = whole("n", n)
        popular = self._most_rated(max(whole("n_fit", n_fit), n))
        drawn = popular[:n] if items is None else pd.Index(items)
        fitted = self.pca(max(dims), popular.union(drawn, sort=False))
        share = fitted.attrs["explained_variance"]
        labels = {f"pc{d}": f"component {d} ({share[d - 1]:.0%} of variance)" for d in dims}
        x, y = (labels[f"pc{d}"] for d in dims)
        table = fitted.loc[drawn].rename_axis(fitted.index.name).reset_index().rename(columns=labels)
        return plot_map(table, x, y, fitted.index.name, ax=ax)

    def factor_examples(self, component: int = 1, n: int = 10, *, n_fit: int = 1000) -> pd.DataFrame:
        """Return the items at both ends of a principal component, which reveal its meaning (e.g. "seriousness").

        Args:
            component: number of the component, counted from 1.
            n: number of items at each end.
            n_fit: only the `n_fit` most rated items are considered.

        Returns:
            DataFrame with the columns `end` ('high' or 'low'), the item column, `value`, `n_ratings`.
        """
        component, n = whole("component", component), whole("n", n)
        name, values = self.train.items.name, self.pca(component, self._most_rated(n_fit))[f"pc{component}"]
        values = values.rename("value").sort_values(ascending=False).reset_index()
        values["n_ratings"] = self.train.counts("item")[self.train.items.encode(values[name])].numpy()
        n = min(n, len(values) // 2)
        ends = [values.head(n).assign(end="high"), values.tail(n)[::-1].assign(end="low")]
        return pd.concat(ends, ignore_index=True)[["end", name, "value", "n_ratings"]]

    def why(self, user, item, *, by: str = "parts") -> pd.DataFrame:
        """Split a score into parts that add up to it.

        The score of the model has four parts, as in an analysis of variance around the average user and item: `global`
        (an average item for an average user), `user bias` and `item bias` (what the user adds for an average item, and
        the item for an average user: their bias and the average effect of the factors), and `factors` (the interaction
        of this user and this item).

        Args:
            user, item: one external id each.
            by: `'parts'`, or `'history'` for the share of each past item, for any model; see `Recommender.why`.

        Returns:
            DataFrame with the columns `part`, `value` (in logits) and `rating`, the predicted rating from the parts so
            far. The last row, `score`, is the sum and the prediction.

        Raises:
            TypeError: the model has no biases and factors to add up (`use_nn`); use `by='history'`.
            KeyError: an id is unknown.
        """
        if by != "parts":
            return self.recommender.why(user, item, by=by)
        model = self._with_factors("why")
        u, i = self._pair(user, item)
        with torch.no_grad():
            score = model.score(u.to(model.device), i.to(model.device)).cpu()  # (1,)
            p, q = (self._centred(side)[row] for side, row in (("user", u), ("item", i)))
            biases = {"user bias": self._effects("user")[u], "item bias": self._effects("item")[i]}
            parts = {**biases, "factors": (p * q).sum(-1)}
            parts = {"global": score - sum(parts.values()), **parts}
            values = torch.cat([*parts.values()])  # (4,)
            ratings = model.activation(torch.cat([values.cumsum(0), score]))
        values = torch.cat([values, score]).numpy()
        return pd.DataFrame({"part": [*parts, "score"], "value": values, "rating": ratings.numpy()})

    def plot_calibration(self, *, ax: Axes | None = None) -> Axes:
        """Plot the calibration of probabilities or intervals, after `calibrate`: observed against predicted values.

        The plot uses the half of the validation users that the calibration was not fitted to. For probabilities it is
        the reliability diagram, with one point per bin and the number of its positives. For intervals it is the share
        of ratings within the interval against the requested share.

        Raises:
            ValueError: there is no calibration, or no validation part.
        """
        return plot_calibration(self.recommender.calibration_table(), ax=ax)

    def top_losses(self, n: int = 10, largest: bool = True, *, on: str = "valid") -> pd.DataFrame:
        """Return the rows with the worst predictions (or the best, with `largest=False`).

        Args:
            n: number of rows.
            on: `'valid'` or `'train'`.

        Returns:
            DataFrame with the user, item and rating columns, `prediction` and `loss` (squared error).
        """
        parts: dict[str, Interactions | None] = {"valid": self.valid, "train": self.train}
        if on not in parts or parts[on] is None:
            raise ValueError(f"on must be one of {[k for k, v in parts.items() if v is not None]}, got {shown(on)}")
        data, n = parts[on], whole("n", n)
        if data.rating is None:
            raise ValueError("top_losses compares predictions with ratings, and these events have none")
        query = self.recommender.data.query_of(data, self.model.needs)
        with evaluating(self.model):
            prediction = predict_ratings(self.model, query, data.item_idx)
        loss = (prediction - data.rating).square()
        rows = torch.argsort(loss, descending=largest, stable=True)[:n].numpy()
        return data.take(rows).to_df().assign(prediction=prediction.numpy()[rows], loss=loss.numpy()[rows])

    def _bias(self, n: int | None, largest: bool, side: str) -> pd.DataFrame:
        n = None if n is None else whole("n", n)
        model, vocab, counts = self._with_factors(f"{side}_bias"), self.train.vocab(side), self.train.counts(side)
        rows, bias = self._trained(side), model.parts(side)[1][:, 0]
        rows = rows[torch.argsort(bias[rows], descending=largest, stable=True)[:n]]
        columns = {"bias": bias, "effect": self._effects(side), "n_ratings": counts}
        columns = {name: column[rows].numpy() for name, column in columns.items()}
        table = pd.DataFrame({vocab.name: vocab.decode(rows.numpy()), **columns})
        if self.train.rating is None:
            return table
        sums = torch.bincount(self.train.indices(side), self.train.rating.double(), minlength=len(vocab))
        return table.assign(mean_rating=(sums / counts.clamp(min=1))[rows].numpy())

    def _effects(self, side: str) -> Tensor:
        """What each id adds to the score for an average id of the other side, `(n_rows,)` logits: 0 on average."""
        other = "user" if side == "item" else "item"
        factors, bias = self.model.parts(side)
        others = self.model.factors(other)[self._trained(other)].mean(0)
        total = bias.squeeze(1) + factors @ others
        return total - total[self._trained(side)].mean()

    def _centred(self, side: str) -> Tensor:
        """The factors `(n_rows, d)` less their mean over the ids with training data."""
        factors = self.model.factors(side)
        return factors - factors[self._trained(side)].mean(0)

    def _most_rated(self, n: int) -> pd.Index:
        """Ids of the `n` items with the most training rows, the most rated first; ties in vocabulary order."""
        counts = self.train.counts("item")
        rows = torch.argsort(counts, descending=True, stable=True)[: min(n, int((counts > 0).sum()))]
        return self.train.items.decode(rows[rows > 0].numpy())

    def _with_factors(self, what: str) -> CollFilter:
        if not isinstance(self.model, CollFilter):
            raise TypeError(
                f"{what} needs a dot-product model with biases (CollFilter), this one is {type(self.model).__name__}; "
                "pca, plot_pca and factor_examples work for it, and top_losses if there are ratings"
            )
        if not all_finite(self.model.parameters()):
            raise ValueError(
                "the model's weights are NaN: its training diverged; train again with a lower learning rate"
            )
        return self.model

    def _trained(self, side: str) -> Tensor:
        """Rows `(m,)` of the ids that have training data, ascending."""
        return self.train.counts(side).nonzero().squeeze(1)

    def _pair(self, user, item) -> tuple[Tensor, ...]:
        """Indices `(1,)` of a user and of an item."""
        pair = ((self.train.users, user), (self.train.items, item))
        return tuple(torch.from_numpy(vocab.encode([one], unknown="raise")) for vocab, one in pair)
