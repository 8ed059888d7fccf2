"""`Pipeline`: two stages; the first finds candidates and the second ranks them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from collabkit.data.checks import share_or_all, whole
from collabkit.data.dataset import Dataset
from collabkit.data.features import SideFeatures
from collabkit.data.query import PARTS, Query
from collabkit.models.base import Model
from collabkit.models.closed_form import ClosedForm, model_and_data
from collabkit.models.scorers import Scorer

__all__ = ["Pipeline"]

FUSED = 60  # Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet" (2009)


class Pipeline(ClosedForm):
    """Rank the candidates of one or several models with another model, as in YouTube's two-stage recommender.

    The first stage scores every item and has to be fast. The second scores only `n_candidates` items per user, so it
    may be a network with side features and context, preferably trained on the candidates of the first stage
    (`negatives=` with `sampling.ShownNegatives`). Covington, Adams and Sargin, "Deep neural networks for YouTube
    recommendations" (2016). The lists of several candidate models are merged by the sum of `1 / (60 + rank)`. Items in
    a user's history are not candidates. An item that is not a candidate has no score and is never listed.

    A pipeline has the methods of closed-form models: `recommend`, `evaluate`, `compare`, `export`, `Recommender.load`.

    Args:
        candidates: one or several trained models: learners, `Recommender`s or closed-form models.
        ranker: a trained model, whose data is used for the pipeline. All models must be made from the same table.
        n_candidates: number of items per user for the ranker.
        weight: weight of the ranker: the score is `weight` times its score plus `1 - weight` times that of the first
            stage, each standardized over the candidates (mean 0, standard deviation 1). Choose it on the validation
            part. At 1 the score is the ranker's own.

    Raises:
        ValueError: models have other users or items; there is no candidate model; `weight` is outside [0, 1].
        TypeError: an argument is not a model.

    Example:
        >>> pipeline = Pipeline([EASE().fit(dls), NextItem().fit(dls)], learn, n_candidates=100)  # doctest: +SKIP
        >>> pipeline.recommend(['ann'], context={'hour': 20})                                     # doctest: +SKIP
    """

    name = "pipeline"
    joined = True

    def __init__(self, candidates, ranker, n_candidates: int = 200, weight: float = 1.0):
        given = candidates if isinstance(candidates, Sequence) else [candidates]
        found = [model_and_data(one) for one in (*given, ranker)]
        if len(found) < 2 or any(data is None for _, data in found):
            raise ValueError("a pipeline needs at least one candidate model and a ranker, all trained")
        data = found[-1][1]
        for model, other in found[:-1]:
            if other.users != data.users or other.items != data.items:
                raise ValueError(f"{type(model).__name__} has different ids from the ranker; make all from one table")
        super().__init__()
        self._put_together([model for model, _ in found], n_candidates, weight)
        self.fit(data)

    def _put_together(self, models: Sequence[Model], n_candidates: int, weight: float) -> None:
        self.n_candidates, self.weight = whole("n_candidates", n_candidates), share_or_all("weight", weight)
        self.stages, self.ranker = nn.ModuleList(models[:-1]), models[-1]
        self.needs = tuple(part for part in PARTS if any(part in model.needs for model in models))
        self.ordered = any(model.ordered for model in models)
        self.eval()

    @property
    def _models(self) -> list[Model]:
        return [*self.stages, self.ranker]

    @property
    def explained(self) -> Model:
        """The ranker."""
        return self.ranker.explained

    @property
    def features(self) -> SideFeatures:
        """The features of all stages."""
        every = zip(*(model.features for model in self._models), strict=True)
        return SideFeatures(*(next((part for part in parts if part is not None), None) for parts in every))

    def config(self) -> dict:
        own = [type(model).__name__ for model in self._models if type(model) not in _models()]
        if own:
            raise TypeError(f"only pipelines of the library's own models can be saved; this one has {', '.join(own)}")
        models = [{"class": type(model).__name__, "arguments": model.config(),
                   "features": [part is not None for part in model.features]} for model in self._models]  # fmt: skip
        return {"models": models, "n_candidates": self.n_candidates, "weight": self.weight}

    @classmethod
    def for_data(cls, data: Dataset, models: Sequence[dict], n_candidates: int, weight: float) -> "Pipeline":
        """Create the pipeline of an artefact; `restore` sets its weights."""
        known, made = {model.__name__: model for model in _models()}, []
        for spec in models:
            if spec["class"] not in known:
                raise ValueError(f"a stage is of class {spec['class']!r}; a pipeline can hold {', '.join(known)}")
            own = [part if there else None for part, there in zip(data.features, spec["features"], strict=True)]
            made.append(known[spec["class"]].for_data(replace(data, features=SideFeatures(*own)), **spec["arguments"]))
        pipeline = cls.__new__(cls)
        ClosedForm.__init__(pipeline)
        pipeline._put_together(made, n_candidates, weight)
        pipeline.data = data
        return pipeline

    def refit_all(self) -> "Pipeline":
        """Raise an error: a pipeline consists of trained models."""
        raise TypeError("a pipeline trains nothing: call refit_all() of each of its models, and join the new ones")

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore({"counts": state["counts"]})
        prefixes = [*(f"stages.{j}." for j in range(len(self.stages))), "ranker."]
        for prefix, model in zip(prefixes, self._models, strict=True):
            model.restore({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)})
            model.eval()

    def name_rows(self, users, items) -> "Pipeline":
        for model in self._models:
            model.name_rows(users, items)
        return super().name_rows(users, items)

    def scorer(self, candidates: Tensor, max_memory: int | str = "512MB") -> Scorer:
        scorers = [model.scorer(candidates, max_memory) for model in self.stages]
        column = torch.full((len(self.counts),), -1)
        column[candidates] = torch.arange(len(candidates))

        def scores(query: Tensor | Query) -> Tensor:
            query = Query(query) if isinstance(query, Tensor) else query
            first = self._first([scorer(query).cpu() for scorer in scorers], self._met(query, column))
            shown = first.topk(min(self.n_candidates, len(candidates)))
            row, place = shown.values.isfinite().nonzero(as_tuple=True)
            at = shown.indices[row, place]
            second = torch.full_like(shown.values, torch.nan)
            second[row, place] = self.ranker.score_pairs(query, row, candidates[at], max_memory)
            if self.weight < 1:
                second = self.weight * _standard(second) + (1 - self.weight) * _standard(shown.values)
            return torch.full_like(first, -torch.inf).index_put_((row, at), second[row, place])

        return scores

    def _first(self, scores: list[Tensor], met: tuple[Tensor, Tensor]) -> Tensor:
        """The first stage's scores `(b, c)`, fused if there are several, -inf for items already met."""
        for part in scores:
            part[met] = -torch.inf
        if len(scores) == 1:
            return scores[0].float()
        fused = torch.full_like(scores[0], 0.0)
        n = min(self.n_candidates, fused.shape[1])
        worth = 1.0 / (FUSED + 1 + torch.arange(n, dtype=fused.dtype))
        for part in scores:
            fused.scatter_add_(1, part.topk(n).indices, worth.expand(len(fused), n))
        fused[fused == 0] = -torch.inf
        fused[met] = -torch.inf
        return fused

    def _met(self, query: Query, column: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the candidates that the users have already met."""
        users = query.users.cpu()
        runs = [self.data.known.of(users)] if self.data is not None else []
        runs += [] if query.history is None else [query.history.to("cpu")]
        row, item = (torch.cat([getattr(run, part) for run in runs]) for part in ("rows", "values"))
        there = column[item] >= 0
        return row[there], column[item[there]]


def _models() -> tuple[type[Model], ...]:
    from collabkit.models import MODELS  # it imports the pipeline

    return MODELS


def _standard(scores: Tensor) -> Tensor:
    """Scores `(b, n)`, NaN or infinite where missing, minus their row's mean, divided by its standard deviation."""
    there = scores.isfinite()
    n = there.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(there, scores - torch.where(there, scores, 0).sum(1, keepdim=True) / n, 0)
    return centred / (centred.square().sum(1, keepdim=True) / n).sqrt().clamp(min=1e-9)
