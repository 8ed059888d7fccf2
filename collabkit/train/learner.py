"""`collab_learner` and `CollabLearner`: a fastai `Learner` that recommends, evaluates and exports."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastcore.foundation import L

from collabkit.data.checks import check_seed, file_path, shown, whole
from collabkit.data.feedback import read_feedback
from collabkit.data.frames import Table
from collabkit.data.notices import near_match, say
from collabkit.data.prepare import say_unstorable
from collabkit.data.processes import processes
from collabkit.models.base import Model, as_model, check_y_range, probe
from collabkit.models.sharded import ShardedTables, in_shards, is_sharded
from collabkit.serve import Recommender
from collabkit.serve.artefact import load_all
from collabkit.serve.shards import save_shards
from collabkit.serve.streamed import BLOCK
from collabkit.train.als import check_options
from collabkit.train.als_defaults import pick_als
from collabkit.train.callbacks import AlternatingLeastSquares
from collabkit.train.choose import (
    N_FACTORS,
    check_model,
    check_ratings,
    check_rest,
    check_shards,
    choose_loss,
    choose_start,
    other_model,
    rating_model,
    say_windows,
)
from collabkit.train.dataloaders import CollabDataLoaders, check_dls
from collabkit.train.delegates import delegates
from collabkit.train.loop import LeanLearner
from collabkit.train.refit import recorded, refit_all
from collabkit.train.start import StartSolved
from collabkit.train.update import update

__all__ = ["collab_learner", "CollabLearner", "load_learner"]


class CollabLearner(LeanLearner):
    """A fastai `Learner` for the models of this library; create it with `collab_learner`.

    In addition to fastai's methods it has `predict`, `recommend`, `similar_items`, `similar_users`, `evaluate` and
    `export`, all with external ids. Arguments as in `loop.LeanLearner`.
    """

    def __init__(self, *args, **kwargs) -> None:
        self._recommender: Recommender | None = None
        self._given = None  # the data passed to the recommender, or taken over from it
        self._metrics_of_fit: dict[str, float] = {}
        super().__init__(*args, **kwargs)
        if as_model(self.model) is not None and getattr(self.loss_func, "of_differences", False):
            self.model.drop_user_bias()

    def __repr__(self) -> str:
        if as_model(self.model) is None:
            return super().__repr__()
        return repr(self.recommender).replace("Recommender", "CollabLearner", 1)

    @delegates(LeanLearner.fit)
    def __getattr__(self, name: str):
        """Attributes of the model, as in fastai; the error for an unknown name suggests a similar one."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            own = [known for known in dir(type(self)) if not known.startswith("_")]
            where = "; its .recommender has" if hasattr(Recommender, name) else near_match(name, own)
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{where}") from None

    def fit(self, n_epoch, *args, **kwargs) -> None:
        """Train as fastai's `fit`; see `LeanLearner.fit`. Folded-in users are then folded into the trained model."""
        try:
            super().fit(n_epoch, *args, **kwargs)
            self._keep_metrics()
        except BaseException:
            with suppress(Exception):  # as in `LeanLearner.fit`
                self._refold()
            raise
        self._refold()

    @delegates(LeanLearner.load)
    def load(self, *args, **kwargs) -> "CollabLearner":
        """Load weights, see `LeanLearner.load`; folded-in users are then folded into the loaded model.

        Raises:
            ValueError: the checkpoint has tables of other sizes; the model stays unchanged.
        """
        kept = deepcopy(self.model.state_dict())
        try:
            super().load(*args, **kwargs)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            self.model.load_state_dict(kept)
            raise ValueError("the checkpoint has tables of other sizes: other data, or ids were added since it was "
                             "saved; learn.export keeps a model with its ids "
                             f"({str(error).splitlines()[-1].strip()})") from error  # fmt: skip
        self._refold()
        return self

    def _refold(self):
        if as_model(self.model) is not None and self.dls.data.folded is not None:
            self.recommender.refold()

    @recorded
    def fit_als(
        self, n_sweeps: int = 12, *, reg: float | None = None, unobserved_weight: float | None = None, nu: float = 1.0,
        n_cg: int = 3, search: bool = True, cbs=None, checkpoint: str | Path | None = None, resume: bool = False,
    ):  # fmt: skip
        """Fit a dot-product model by implicit alternating least squares: the quickest way to a strong ranking.

        Each sweep solves for all users and then for all items, and counts as an epoch: progress, validation metrics,
        `SaveModelCallback` and early stopping work as in `fit`. Biases are set to zero. Gradient training may follow.
        Rows are weighted by their confidence, if the data has counts (`Implicit(counts=)`), and by their `weights=`.
        The training loss shown is the objective per training row; the validation loss is the learner's loss, in other
        units: compare the validation losses of epochs, not the two columns.

        Args:
            n_sweeps: number of sweeps.
            reg, unobserved_weight: parameters of the objective, see `als.ALSSolver`. By default they are chosen and
                reported: a rule based on shape and density gives a first value, and a few short fits around it are
                evaluated on a part cut from the training part; see `als_defaults.pick_als`. Together these cost less
                than three fits.
            nu, n_cg: the exponent of the penalty and the number of conjugate gradient steps.
            search: whether to run the short fits; False uses only the rule.
            cbs: additional callbacks.
            checkpoint, resume: as in `fit`.

        Raises:
            TypeError: the model's score is not the dot product of two tables.
            ValueError: explicit feedback, or an argument out of range.
        """
        options = {"reg": reg, "unobserved_weight": unobserved_weight, "nu": nu, "n_cg": n_cg}
        check_options(**options)
        if reg is None or unobserved_weight is None:
            n_sweeps = whole("n_epoch", n_sweeps)
            AlternatingLeastSquares.check(self)
            table, data = self.model.factor_tables()[0], self.dls.data
            picked = pick_als(data.train, table.shape[1], n_sweeps, **options, search=search,
                              disliked=data.disliked, seed=self.seed, device=table.device)  # fmt: skip
            say(picked.why)
            options |= {"reg": picked.reg, "unobserved_weight": picked.unobserved_weight}
        cbs = [AlternatingLeastSquares(**options), *L(cbs)]
        self.fit(n_sweeps, cbs=cbs, checkpoint=checkpoint, resume=resume)

    def update(self, events: pd.DataFrame, users=None, items=None, *, lr: float = 1e-2) -> "CollabLearner":
        """Add events that happened after training; see `Recommender.update`. Returns the learner.

        In addition, if the model was trained by gradient descent, the rows of new items are trained with this
        learner's loss, over as many passes as make some 100 batches (at least one), while all other weights stay
        fixed. Then the rows of the users who have these items are solved for again. The new events are training rows
        in the next `fit` and in `refit_all`; the validation part stays the same, except for ratings that are replaced
        by newer ones.

        Args:
            events, users, items: as in `Recommender.update`.
            lr: initial learning rate for the rows of new items.
        """
        update(self, events, users, items, lr=lr)
        return self

    def refit_all(self) -> "CollabLearner":
        """Train a new learner with the same recipe on the training and the validation part together.

        Use it at the end, when the validation part has served to choose the model, loss, learning rate and epochs, so
        that the exported model knows all events. The model is created again as by `collab_learner`, and the fits of
        this learner are repeated in the same order, with the same arguments, callbacks and seed. A fit that was
        stopped early keeps its schedule and ends after the same number of epochs. A fit whose best weights were
        restored by `SaveModelCallback` ends at that epoch. Metrics, and callbacks that monitor validation figures, are
        left out. This learner stays unchanged. Folded-in users are also folded into the new one. The new learner can
        `evaluate` only on new tables.

        Returns:
            The new learner, whose dataloaders have no validation part.

        Raises:
            ValueError: nothing was trained yet; weights were loaded from a file; row weights come from a column, which
                exist only for the training rows.
            TypeError: this learner was not created by `collab_learner`.

        Example:
            >>> from collabkit import CollabDataLoaders, datasets
            >>> events = datasets.synthetic(n_users=100, n_items=80, n_ratings=2000, seed=1).ratings
            >>> names = {'user_name': 'user', 'item_name': 'title', 'feedback': 'implicit'}
            >>> dls = CollabDataLoaders.from_df(events, seed=0, **names)
            >>> learn = collab_learner(dls, n_factors=8)
            >>> with learn.no_bar(), learn.no_logging():
            ...     learn.fit_als(3)
            ...     final = learn.refit_all()
            >>> len(final.dls.train.dataset) == len(dls.train.dataset) + len(dls.valid.dataset)
            True
        """
        return refit_all(self, collab_learner)

    def _keep_metrics(self):
        """Remember the last epoch's figures for `export`: `validate` and `get_preds` overwrite the recorder's."""
        recorder = getattr(self, "recorder", None)
        row = recorder.values[-1] if recorder is not None and recorder.values else []
        names = [] if recorder is None else [name for name in recorder.metric_names if name not in ("epoch", "time")]
        if len(row) == len(names) and all(value is not None for value in row):  # lr_find has no validation loss
            self._metrics_of_fit = dict(zip(names, map(float, row), strict=True))

    @property
    def recommender(self) -> Recommender:
        """The `Recommender` on this learner's model and data."""
        if as_model(self.model) is None:
            raise TypeError(f"this needs one of collabkit's models, got {type(self.model).__name__}")
        dls = self.dls
        if self._recommender is None or self._recommender.model is not self.model:
            self._recommender = Recommender(self.model, dls.data)
        self._recommender.data = self._given = dls.data
        return self._recommender

    @property
    def dls(self) -> CollabDataLoaders:
        """The dataloaders, including ids that were added through the recommender."""
        self._take_over()
        return self._dls

    @dls.setter
    def dls(self, dls) -> None:
        self._dls = dls

    @property
    def opt(self):
        """The optimiser of the current tables; None before the first fit, and after ids were added."""
        self._take_over()
        return self._opt

    @opt.setter
    def opt(self, opt) -> None:
        self._opt = opt

    def _take_over(self) -> None:
        """Take over the data of the recommender if ids were added to it directly: the tables then have other sizes."""
        mine = self._recommender
        if mine is not None and mine.model is self.model and mine.data is not self._given:
            self._extended(mine)

    @delegates(Recommender.predict)
    def predict(self, users, items=None, **kwargs) -> float | np.ndarray | tuple:
        """Return the predicted rating of each (user, item) pair; see `Recommender.predict`."""
        return self.recommender.predict(users, items, **kwargs)

    @delegates(Recommender.calibrate)
    def calibrate(self, method: str = "platt", **kwargs) -> pd.DataFrame:
        """Calibrate scores to probabilities, or ratings to intervals; see `Recommender.calibrate`."""
        return self.recommender.calibrate(method, **kwargs)

    @delegates(Recommender.recommend)
    def recommend(self, users=None, k: int = 10, **kwargs) -> pd.DataFrame:
        """Return the top `k` items of each user, or of new users by `history=`; see `Recommender.recommend`."""
        return self.recommender.recommend(users, k, **kwargs)

    @delegates(Recommender.recommend, but="history")
    def recommend_batches(self, users=None, k: int = 10, *, block: int = BLOCK, **kwargs) -> Iterator[pd.DataFrame]:
        """Yield the lists of any number of users, table by table; see `Recommender.recommend_batches`."""
        return self.recommender.recommend_batches(users, k, block=block, **kwargs)

    @delegates(Recommender.recommend, but="history")
    def recommend_to(self, folder: str | Path, users=None, k: int = 10, *, block: int = BLOCK, **kwargs) -> Path:
        """Write the lists of any number of users to a folder of Parquet; see `Recommender.recommend_to`."""
        return self.recommender.recommend_to(folder, users, k, block=block, **kwargs)

    @delegates(Recommender.why)
    def why(self, user=None, item=None, **kwargs) -> pd.DataFrame:
        """Return what each past item adds to the score of an item; see `Recommender.why`."""
        return self.recommender.why(user, item, **kwargs)

    @delegates(Recommender.recommend_users)
    def recommend_users(self, item, k: int = 10, **kwargs) -> pd.DataFrame:
        """Return the `k` users with the highest scores for an item; see `Recommender.recommend_users`."""
        return self.recommender.recommend_users(item, k, **kwargs)

    def add_items(self, items: Table) -> "CollabLearner":
        """Add new items by their features, without training; see `Recommender.add_items`. Returns the learner."""
        return self._extended(self.recommender.add_items(items))

    def add_users(self, users: Table) -> "CollabLearner":
        """Add new users by their features, without training; see `Recommender.add_users`. Returns the learner."""
        return self._extended(self.recommender.add_users(users))

    def fold_in(self, ratings: Table, users: Table | None = None) -> "CollabLearner":
        """Add new users by their ratings or clicks, without training; see `Recommender.fold_in`.

        Their rows are not training data: `fit` ignores them, and folds these users in again at its end. Returns the
        learner.
        """
        return self._extended(self.recommender.fold_in(ratings, users))

    @delegates(Recommender.questionnaire)
    def questionnaire(self, n: int = 10, **kwargs) -> pd.DataFrame:
        """Return items to ask a new user about; see `Recommender.questionnaire`."""
        return self.recommender.questionnaire(n, **kwargs)

    def vectors(self, side: str = "items") -> tuple[pd.Index, np.ndarray]:
        """Return ids and vectors of items or users, whose dot products are the scores; see `Recommender.vectors`."""
        return self.recommender.vectors(side)

    def _extended(self, recommender: Recommender) -> "CollabLearner":
        """Take over the data of the recommender after ids were added."""
        self._dls, self._given = self._dls.with_data(recommender.data), recommender.data
        self._opt = None  # it holds the old tables
        return self

    def similar_items(self, item, k: int = 10, *, by: str = "vectors") -> pd.DataFrame:
        """Return the `k` nearest items by learned vectors or by features; see `Recommender.similar_items`."""
        return self.recommender.similar_items(item, k, by=by)

    def next_items(self, item, k: int = 10) -> pd.DataFrame:
        """Return the `k` items most likely to follow `item`; see `Recommender.next_items`."""
        return self.recommender.next_items(item, k)

    def similar_users(self, user, k: int = 10) -> pd.DataFrame:
        """Return the `k` nearest users by cosine; see `Recommender.similar_users`."""
        return self.recommender.similar_users(user, k)

    @delegates(Recommender.evaluate)
    def evaluate(self, on="valid", **kwargs) -> pd.DataFrame:
        """Return rating and ranking metrics with intervals and baselines; see `Recommender.evaluate`."""
        return self.recommender.evaluate(on, **kwargs)

    @delegates(Recommender.tradeoff)
    def tradeoff(self, knob: str = "diversity", values=None, on="valid", **kwargs) -> pd.DataFrame:
        """Return the cost in accuracy of diverse, less known or new items in lists; see `Recommender.tradeoff`."""
        return self.recommender.tradeoff(knob, values, on, **kwargs)

    @delegates(Recommender.evaluate_fold_in)
    def evaluate_fold_in(self, on="valid", **kwargs) -> pd.DataFrame:
        """Evaluate predictions for new users of whom n rows are known; see `Recommender.evaluate_fold_in`."""
        return self.recommender.evaluate_fold_in(on, **kwargs)

    @delegates(Recommender.to_onnx)
    def to_onnx(self, file: str | Path, what: str = "score", **kwargs) -> Path:
        """Export the model as an ONNX file, which runs without torch; see `Recommender.to_onnx`."""
        return self.recommender.to_onnx(file, what, **kwargs)

    @delegates(Recommender.to_torch_export)
    def to_torch_export(self, file: str | Path, what: str = "score", **kwargs) -> Path:
        """Export the model as a torch exported program; see `Recommender.to_torch_export`."""
        return self.recommender.to_torch_export(file, what, **kwargs)

    @delegates(Recommender.to_pgvector)
    def to_pgvector(self, dsn: str, schema: str = "rec", **kwargs) -> dict:
        """Store the vectors in Postgres; see `Recommender.to_pgvector`."""
        return self.recommender.to_pgvector(dsn, schema, **kwargs)

    def export(self, folder: str | Path = "export") -> Path:
        """Write the artefact (no pickle) that `load_learner` and `Recommender.load` read; see `serve.save_artefact`.

        A relative `folder` is relative to `self.path`. For sharded tables every process writes its rows into the same
        file of weights, so all must have access to the folder; the files for `serve.Light` are not written.
        """
        folder = file_path("the artefact's folder", folder)
        if is_sharded(self.model):
            return save_shards(Path(self.path) / folder, self.recommender, metrics=self._metrics_of_fit)
        save = partial(self.recommender.save, Path(self.path) / folder, metrics=self._metrics_of_fit)
        return processes().once(save, "the artefact")


def collab_learner(
    dls: CollabDataLoaders, n_factors: int = N_FACTORS, use_nn: bool = False, emb_szs=None, layers=None,
    config: Mapping | None = None, y_range: tuple[float, float] | None = None, loss_func=None, *, model=None,
    seed: int | None = None, wd_on: str = "factors", start: str | None = None, sparse: bool | str | None = None,
    sharded: bool = False, **kwargs,
) -> CollabLearner:  # fmt: skip
    """Create a learner for ratings or for implicit feedback, with fastai's signature and defaults.

    With implicit feedback the dot-product model starts from the result of `fit_als()`, because five epochs from random
    rows with fastai's learning rate and batches of 64 get no further than popularity. On ML-latest-small (a random
    fifth held out, three seeds) NDCG@10 is .333 after `fit_one_cycle(5)` with default arguments (.171 from random
    rows), .171 for popularity, .306 for `ItemKNN`, and .339 for `learn.fit_als()`, which is faster and still the best
    first step. See docs/decisions/0018-counts-and-defaults.md for other data.

    Args:
        dls: batches from `CollabDataLoaders`.
        n_factors: number of factors of a dot-product model, embedding size of other models; with `use_nn` on ratings
            the width of the hidden layer, as in fastai.
        use_nn: use an embedding network instead of the dot product with biases (`CollFilter`): `EmbeddingNN` for
            ratings, `NCF` for implicit feedback.
        emb_szs: with `use_nn` on ratings, embedding sizes: `{column: size}`, or a user and an item entry, each a size
            or `(n, size)` as from fastai's `get_emb_sz`. Default `emb_sz_rule`.
        layers: widths of the hidden layers, for models that have them; default `[n_factors]` with `use_nn` on ratings.
        config: with `use_nn`, a dict of `ps`, `embed_p`, `use_bn`, `bn_final`, `y_range` as from `tabular_config`.
        y_range: `(low, high)` of predicted ratings, a little wider than the ratings, e.g. `(0, 5.5)`.
        loss_func: for ratings, by default mean squared error. For implicit feedback a name in `losses.LOSSES`
            (`'bpr'`, `'hinge'`, `'softmax'`, ...; the default is `'sampled_softmax'` for the dot-product model without
            side features and `'bce'` for other models), or a function of the positives' scores `(bs,)` and the
            negatives' scores `(bs, n)`, which are -inf for negatives to ignore.
        model: another model: a class, e.g. `TwoTower`, or an instance.
        seed: seed of the initial weights and of training; default that of the dataloaders.
        wd_on: `'factors'` applies no weight decay to biases; `'all'` applies it to every table, as in fastai.
        start: starting point of the first gradient fit: `'als'` (the result of `fit_als()`) or `'random'`. Default
            `'als'` for a new dot-product model of implicit feedback without side features, if you pass neither
            `loss_func` nor `init_std`.
        sparse: which tables have sparse gradients, so that the cost of a training step depends only on the rows in its
            batch: True, False, or `'auto'` (tables of at least 300,000 rows), the default for a new model without
            `opt_func`. With sparse gradients, (decoupled) weight decay is applied to a row only when it is in a batch,
            and momentum does not move the other rows; see `optim.LazyAdamW`.
        sharded: distribute the rows of users and items over the processes of a launcher; each holds a part of the
            tables and of the optimiser's moments. It needs TorchRec (requirements-torchrec.txt), and supports models of
            two tables (`CollFilter`, `NCF`, `NeuMF`, `TwoTower`, ...) without side features. All processes then call
            every method that uses the model, within `learn.distrib_ctx()`; `learn.export` writes an artefact that one
            process can load. A single process trains the same model. See
            docs/decisions/0031-tables-larger-than-a-machine.md.
        **kwargs: options of the model (`ps`, `embed_p`, `init_std`, `similarity`, ...), and fastai's
            `Learner` arguments (`metrics`, `cbs`, `lr`, `wd`, `opt_func`, `path`, ...).

    Raises:
        ValueError: ratings are outside `y_range`; sizes do not fit the data; options belong to another model or
            kind of feedback.
        TypeError: an unknown argument; `sharded` with a model that does not support it.
        ImportError: `sharded`, and TorchRec is not installed.
    """
    options = {name: value for name, value in locals().items() if name not in ("dls", "kwargs")}
    options |= {name: value for name, value in kwargs.items() if name not in ("metrics", "cbs")}
    check_dls("collab_learner", dls, DataLoaders)
    check_model(model)
    seed = check_seed(getattr(dls, "seed", 0) if seed is None else seed)
    y_range = check_y_range(y_range)
    implicit = getattr(dls, "feedback", "explicit") == "implicit"
    is_new, named = not isinstance(model, torch.nn.Module), loss_func is not None or "init_std" in kwargs
    if not isinstance(sharded, bool):
        raise ValueError(f"sharded must be True or False, got {shown(sharded)}")
    if sharded:
        check_shards(dls, model, start, kwargs.get("opt_func"))
    with in_shards(sharded), torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        given = {"emb_szs": emb_szs, "layers": layers, "config": config, "y_range": y_range}
        if model is None and not implicit:
            model = rating_model(dls, n_factors, use_nn, **given, options=kwargs)
        else:
            model = other_model(dls, model, n_factors, use_nn, **given, options=kwargs)
    check_rest(kwargs, model, set(options) - set(kwargs))
    if sharded and not all(isinstance(side.tables, ShardedTables) for side in model.sides):
        raise TypeError(f"sharded=True is for models whose two sides are tables, got {type(model).__name__}")
    if as_model(model) is not None and (is_new or sparse is not None):
        usual = sharded or ("auto" if kwargs.get("opt_func") is None else False)  # others may lack support
        model.set_sparse(usual if sparse is None else sparse)
    elif sparse is not None:
        raise ValueError(f"sparse= is for collabkit's models, got {type(model).__name__}")
    start = choose_start(dls, model, start, named or not is_new or sharded)
    loss_func = choose_loss(dls, loss_func, model)
    if as_model(model) is not None:
        check_ratings(dls, model.y_range)
        model.name_rows(*dls.classes.values())
        say_unstorable(dls.data)
        if dls.feedback == "explicit":
            dls.train.batches.asking(model.needs)  # raises for a model that reads histories
        say_windows(dls, model)
        if not is_sharded(model):  # otherwise later, when the processes have met
            probe(model, dls.data)
        if is_new and getattr(loss_func, "of_differences", False):
            model.drop_user_bias(reset=True)
    learn = CollabLearner(dls, model, loss_func, seed=seed, wd_on=wd_on, **kwargs)
    learn.recipe.options = options
    if start == "als":
        learn.add_cb(StartSolved())
    if not is_new and getattr(model, "trained", False):
        learn.recipe.foreign = f"the {type(model).__name__} that it was given, which was trained before"
    return learn


def load_learner(
    folder: str | Path, *, models: Sequence[type[Model]] = (), path: str | Path = ".", bs: int | None = 64,
    val_bs: int | None = None, device=None, n_neg: int | None = None, negatives=None, by_user: bool = False,
    loss_func=None, **kwargs,
) -> CollabLearner:  # fmt: skip
    """Load a learner from an artefact folder written by `learn.export`, to recommend or to continue training.

    Args:
        folder: the artefact. For a pickle exported by fastai use `fastai.learner.load_learner`.
        models: the class of its model, if it is not one of the library's.
        path: folder in which the learner saves files.
        bs, val_bs, device: options of the dataloaders, for further training.
        n_neg, negatives, by_user: the same for implicit feedback; the artefact does not store them.
        loss_func: the loss for further training; default as in `collab_learner`.
        **kwargs: other arguments of `CollabLearner`.

    Raises:
        FileNotFoundError, BundleError: see `serve.load_artefact`.
    """
    (model, data, _), fold = load_all(folder, models)
    if not model.sparse and kwargs.get("opt_func") is None:
        model.set_sparse("auto")
    word = "explicit" if data.rated else "implicit"
    feedback = read_feedback(word, n_neg=n_neg, negatives=negatives, by_user=by_user)
    options = {"path": path, "seed": 0, "bs": bs, "val_bs": val_bs, "device": device}
    dls = CollabDataLoaders.from_dataset(data, feedback=feedback, **options)
    learn = CollabLearner(dls, model.to(dls.device), choose_loss(dls, loss_func, model), **kwargs)
    if model.device.type == "cpu":  # the device to which its prior was read
        learn.recommender.keep_fold(fold)
    return learn
