"""Because you liked: the shares of past items sum to the score, and their order is that of leaving one out."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau
from test_lists import ITEMS, MAKE, dataloaders, trained

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabInterpretation,
    CollabWarning,
    CollFilter,
    ContentKNN,
    Implicit,
    ItemKNN,
    NextItem,
    Pipeline,
    Recommender,
    SASRec,
    collab_learner,
)
from collabkit.coldstart.fold_in.least_squares import LeastSquares
from collabkit.coldstart.fold_in.ratings import histories_of
from collabkit.data.query import Query
from collabkit.models.base import Model
from collabkit.models.sides import Side, TableSide


def als():
    learn = collab_learner(dataloaders(), model=CollFilter, n_factors=8, loss_func="bpr", seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(12)
    return learn.recommender


def with_genres(cls, **options):
    return cls(**options).fit(dataloaders(items=ITEMS)).recommender


EXACT = {
    "ease": MAKE["ease"],
    "ease of the last": lambda: EASE(20, last=3).fit(dataloaders()).recommender,
    "knn": MAKE["knn"],
    "shrunk knn": lambda: ItemKNN(20, shrink=5).fit(dataloaders()).recommender,
    "content": lambda: with_genres(ContentKNN, k=10),
    "next": MAKE["next"],
    "counted next": lambda: NextItem(max_items=10).fit(dataloaders()).recommender,
    "als": als,
}
OTHERS = {name: MAKE[name] for name in ("dot", "ratings", "network", "sequence", "popularity")}
OTHERS["features"] = lambda: trained(CollFilter, data={"items": ITEMS, "history": None}, n_factors=8, loss_func="bpr")
OTHERS["mixed"] = lambda: trained(SASRec, n_factors=8, user_table=True)


@pytest.fixture(scope="module", params=[*EXACT, *OTHERS])
def named(request):
    return request.param, {**EXACT, **OTHERS}[request.param]()


def past(table):
    return table[table["part"] == "history"]


def events_of(rec, user):
    """The items whose shares are told: those that the row, or the history, is made from."""
    runs = rec.data.latest if "history" in rec.model.needs else histories_of(rec.data.trained, slice_of(rec, user))[0]
    row = int(rec.users.encode([user])[0])
    return rec.items.decode((runs.of([row]) if "history" in rec.model.needs else runs).values.numpy()).tolist()


def slice_of(rec, user):
    return torch.from_numpy(rec.users.encode([user]))


def test_shares_sum_to_the_score(named):
    name, rec = named
    lists = rec.recommend(["u1", "u7", "u50"], k=3)
    for user, item, score in zip(lists["user"], lists["item"], lists["score"], strict=True):
        table = rec.why(user, item)
        assert list(table) == ["item", "part", "share"]
        assert table["share"].sum() == pytest.approx(score, abs=1e-5) == table.attrs["score"]
        told = events_of(rec, user)
        if name == "ease of the last":
            told = told[-3:]
        assert sorted(past(table)["item"]) == sorted(set(told))
        assert past(table)["share"].is_monotonic_decreasing and table["part"].iloc[-1] == "rest"
        assert table["item"].iloc[-1] is None
        if name in EXACT:
            assert table.attrs["exact"] and abs(table["share"].iloc[-1]) < 1e-5
            assert past(table)["share"].sum() == pytest.approx(score, abs=1e-5)


def test_shares_of_somebody_new_sum_to_the_score(named):
    _, rec = named
    own = ["i01", "i05", "i02", "i21"]
    history = dict(zip(own, [5.0, 4.0, 1.0, 5.0], strict=True)) if rec.train.rating is not None else own
    found = rec.recommend(history=history, k=60, filter_seen=False)
    for item, score in zip(found["item"][::20], found["score"][::20], strict=True):
        table = rec.why(history=history, item=item)
        assert table["share"].sum() == pytest.approx(score, abs=1e-5)
        folded = "history" not in rec.model.needs and rec.fold.scores.linear
        assert set(past(table)["item"]) <= set(own) and (table.attrs["exact"] or not folded)


def test_a_history_without_one_event(named):
    """What is told for a history, against what the model says of it without the event: Kendall's tau."""
    name, rec = named
    if name in ("popularity", "mixed"):  # nothing speaks; the row of a user without one is nobody's
        return
    rng, taus = np.random.default_rng(0), []
    for _ in range(2 if name == "network" else 6):
        own = rng.choice(ITEMS["item"], 9, replace=False).tolist()
        if rec.train.rating is not None:
            own = dict(zip(own, rng.choice([1.0, 2.0, 4.0, 5.0], 9).tolist(), strict=True))
        item = rng.choice(np.setdiff1d(ITEMS["item"], list(own)))

        def score(history, item=item):
            lists = rec.recommend(history=history, k=60, filter_seen=False)
            return lists.loc[lists["item"] == item, "score"].item()

        without = [{k: v for k, v in own.items() if k != j} if isinstance(own, dict) else [k for k in own if k != j]
                   for j in own]  # fmt: skip
        falls = pd.Series([score(own) - score(rest) for rest in without], list(own))
        shares = past(rec.why(history=own, item=item)).set_index("item")["share"]
        falls = falls[falls.index.isin(shares.index)]
        if name in ("knn", "shrunk knn", "content") and falls.abs().max() < 1e-6:
            continue  # nothing speaks for the item
        taus.append(kendalltau(falls.round(6), shares[falls.index].round(6)).statistic)
    # What order adds is no sum where the events behind the one that is left out move up.
    least = {"next": 0.6, "counted next": 0.6, "ease of the last": 0.0}
    assert np.nanmean(taus) > least.get(name, 0.7), np.nanmean(taus)


def test_lists_say_because(named):
    name, rec = named
    lists = rec.recommend(["u1", "u7"], k=4, why=True)
    plain = rec.recommend(["u1", "u7"], k=4)
    assert lists.drop(columns="because")["item"].tolist() == plain["item"].tolist()
    three = rec.recommend(["u1", "u7"], k=4, why=3)
    for (_, row), (_, more) in zip(lists.iterrows(), three.iterrows(), strict=True):
        table = past(rec.why(row["user"], row["item"]))
        best = table[table["share"] > 0]
        shares = table.set_index("item")["share"]
        if len(best) == 0:
            assert row["because"] is None and more["because"] == []
            continue
        top = best["share"].head(3).to_numpy()
        assert shares[row["because"]] == pytest.approx(top[0], abs=1e-6)
        np.testing.assert_allclose(shares[more["because"]], top, atol=1e-6)
    if name == "popularity":
        assert lists["because"].isna().all()
    empty = rec.recommend([], k=4, why=True)
    assert len(empty) == 0 and "because" in empty


def test_because_of_recent_events_and_of_new_people(named):
    _, rec = named
    recent = pd.DataFrame({"user": ["u1", "u2"], "item": ["i13", "i34"], "rating": 5.0, "time": 10**6})
    found = rec.recommend(["u1", "u9"], k=3, recent=recent, why=60)
    told = {user: set(events_of(rec, user)) for user in ("u1", "u9")}
    told["u1"] |= {"i13", *rec.items.decode(rec.data.seen.of(slice_of(rec, "u1")).values.numpy())}
    for user, because in zip(found["user"], found["because"], strict=True):
        assert set(because) <= told[user]
    new = rec.recommend(history=recent, k=3, why=60)
    for user, because in zip(new["user"], new["because"], strict=True):
        assert set(because) <= set(recent.loc[recent["user"] == user, "item"])


def test_what_follows_folding_in_is_told_by_what_was_folded_in():
    rec = MAKE["ratings"]()
    rows = pd.DataFrame({"user": "new", "item": ["i02", "i06", "i11"], "rating": [5.0, 4.0, 1.0]})
    history = rec.why(history=rows, item="i10")
    rec.fold_in(rows)
    table = rec.why("new", "i10")
    assert table.attrs["exact"] and table["part"].tolist()[-2:] == ["prior", "rest"]
    assert past(table)["item"].tolist() == past(history)["item"].tolist()
    np.testing.assert_allclose(table["share"], history["share"], atol=1e-5)


# --- the equations of least squares ----------------------------------------------------------------------------------


def test_shares_of_least_squares_are_those_of_hu_and_others():
    """`y_i' (Y' C_u Y + penalty I)^-1 c_uj y_j`, section 5, of users who are solved to rounding."""
    learn = collab_learner(dataloaders(), model=CollFilter, n_factors=6, loss_func="bpr", seed=1)
    reg, weight = 0.02, 0.2
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(5, reg=reg, unobserved_weight=weight, n_cg=12)
    rec, data = learn.recommender, learn.dls.data
    Q = learn.model.i_weight.weight.detach().double() * (data.train.counts("item") > 0)[:, None]
    P = learn.model.u_weight.weight.detach()
    gram, d = weight * Q.T @ Q, Q.shape[1]
    with torch.no_grad():
        for u in range(1, data.n_users):
            own = Q[data.train.pairs.of([u]).values]
            penalty = reg * (len(own) + weight * (data.n_items - 1))
            matrix = own.T @ own + gram + penalty * torch.eye(d).double()
            P[u] = torch.linalg.solve(matrix, own.sum(0)).float()
    table = past(rec.why("u5", "i20"))
    (u,), (i,) = rec.users.encode(["u5"]), rec.items.encode(["i20"])
    items = data.train.pairs.of([u]).values
    own = Q[items]
    matrix = own.T @ own + gram + reg * (len(own) + weight * (data.n_items - 1)) * torch.eye(d).double()
    expected = pd.Series((own @ torch.linalg.solve(matrix, Q[i])).numpy(), rec.items.decode(items.numpy()))
    np.testing.assert_allclose(table["share"], expected[table["item"]], atol=1e-5)


def test_vectors_of_another_training_are_no_least_squares():
    learn = collab_learner(dataloaders(), model=CollFilter, n_factors=6, loss_func="bpr", seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(8)
    assert learn.why("u5", "i20").attrs["method"] == "least squares"
    before = {name: value.clone() for name, value in learn.model.state_dict().items()}
    for recommender in (learn.recommender, MAKE["dot"]()):
        weights = {name: value.clone() for name, value in recommender.model.state_dict().items()}
        recommender.why("u5", "i20")
        assert all(torch.equal(value, weights[name]) for name, value in recommender.model.state_dict().items())
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 1e-1)
    assert learn.why("u5", "i20").attrs["method"] == "fold-in" and before
    data, options = learn.dls.data, {"reg": 0.02, "unobserved_weight": 0.2, "nu": 1.0}
    generator = torch.Generator().manual_seed(0)
    P, Q = (torch.randn(n, 6, generator=generator).double() for n in (data.n_users, data.n_items))
    assert not LeastSquares(P, Q, data, options).hold()
    assert not LeastSquares(torch.zeros_like(P), Q, data, options).hold()


COUNTED = {
    "linear": {"confidence": "linear", "alpha": 5.0},
    "log": {"confidence": "log", "alpha": 3.0},
    "bm25": {"confidence": "bm25"},
    "from two on": {"confidence": "linear", "threshold": 2},
    "dislikes": {"threshold": 3.0, "dislikes": "negatives"},
    "weights": {},
}


def counted_learner(how: str, n_cg: int = 3):
    table = ratings(how in ("dislikes", "weights"))
    feedback = Implicit(**COUNTED[how], **({} if how in ("dislikes", "weights") else {"counts": "qty"}))
    names = {"user_name": "user", "item_name": "item", "rating_name": "rating" if how == "dislikes" else None}
    dls = silence_warnings(CollabDataLoaders.from_df, table, feedback=feedback, seed=0, **names,
                           weights="inverse_user" if how == "weights" else None)  # fmt: skip
    learn = collab_learner(dls, n_factors=6, seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(8, reg=0.02, unobserved_weight=0.2, n_cg=n_cg)
    return learn


def ratings(plain: bool) -> pd.DataFrame:
    """Pairs with heavy-tailed counts, or with ratings."""
    rng = np.random.default_rng(3)
    users, items = np.arange(80).repeat(15), rng.integers(0, 40, 1200)
    table = pd.DataFrame({"user": users, "item": items + 1000}).drop_duplicates()
    values = rng.integers(1, 6, len(table)) if plain else np.ceil(np.exp(1.5 * rng.normal(size=len(table))))
    return table.assign(**{"rating" if plain else "qty": values.astype(float)})


def silence_warnings(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return function(*args, **kwargs)


def confidences(data) -> np.ndarray:
    """What each pair is worth, `(n_users, n_items)`, 0 where there is none; from the formulas of `Confidence`."""
    train, worth = data.train, np.zeros((data.n_users, data.n_items))
    value = np.ones(len(train)) if train.weight is None else train.weight.double().numpy()
    if train.count is not None:
        r, how = train.count.double().numpy(), train.confidence
        u, i = train.user_idx.numpy(), train.item_idx.numpy()
        if how.kind == "bm25":
            total, n = np.bincount(u, r), len(np.unique(u))
            length = 1 - how.b + how.b * total[u] / (total.sum() / n)
            have = np.bincount(i, minlength=data.n_items)[i]
            f = np.log1p((n - have + 0.5) / (have + 0.5)) * r * (how.k1 + 1) / (r + how.k1 * length)
        else:
            f = r if how.kind == "linear" else np.log1p(r / how.eps)
        value = 1 + how.alpha * f
        value = value / value.mean()
    worth[train.user_idx, train.item_idx] = value
    return worth


@pytest.mark.parametrize("how", COUNTED)
def test_shares_of_counts_are_those_of_the_dense_equations(how, tmp_path):
    """Equation 4 of Hu and others, `x_u = (Y' C_u Y + penalty I)^-1 Y' C_u p_u` with C_u over all items, by hand."""
    learn, reg, w = counted_learner(how), 0.02, 0.2
    data, c = learn.dls.data, confidences(learn.dls.data)
    Y = (learn.model.i_weight.weight.detach().double() * (data.train.counts("item") > 0)[:, None]).numpy()
    low = np.zeros(c.shape)
    if data.disliked is not None:
        low[data.disliked.user_idx, data.disliked.item_idx] = 1.0
        assert low.sum() > 100
    solved, left = {}, {}
    P = learn.model.u_weight.weight.detach()
    for u in range(1, data.n_users):
        unobserved = np.where(c[u] > 0, 0.0, w) if data.train.count is not None else w
        penalty = reg * (c[u].sum() + low[u].sum() + w * (data.n_items - 1))
        left[u] = Y.T @ np.diag(c[u] + low[u] + unobserved) @ Y + penalty * np.eye(Y.shape[1])
        solved[u] = np.linalg.solve(left[u], Y.T @ c[u])
    before = torch.stack([P[u] for u in solved])
    now = np.stack([*solved.values()])
    assert np.linalg.norm(before - now) < 0.2 * np.linalg.norm(now)  # which the sweeps were near to
    with torch.no_grad():
        for u, row in solved.items():
            P[u] = torch.from_numpy(row).float()
    recommenders = [learn.recommender]
    if how != "weights":  # of which an artefact knows nothing
        recommenders.append(Recommender.load(learn.export(tmp_path)))
    for rec in recommenders:
        for u in (1, 40, 77):
            user, run = rec.users.ids[u - 1], data.train.pairs.of([u]).values.numpy()
            item = next(i for i in range(1, data.n_items) if c[u, i] == 0 and c[:, i].any())
            table = rec.why(user, rec.items.ids[item - 1])
            shares = pd.Series(c[u, run] * (Y[run] @ np.linalg.solve(left[u], Y[item])), rec.items.decode(run))
            assert table.attrs["method"] == "least squares" and table.attrs["exact"]
            np.testing.assert_allclose(past(table)["share"], shares[past(table)["item"]].to_numpy(), atol=1e-5)
            assert table["share"].sum() == pytest.approx(Y[item] @ solved[u], abs=1e-5)


@pytest.mark.parametrize("how", COUNTED)
def test_shares_of_few_steps_sum_to_the_score(how, tmp_path):
    learn = counted_learner(how)
    rec = Recommender.load(learn.export(tmp_path))
    for model in (learn, rec):
        lists = model.recommend([3, 11, 60], k=2, why=True)
        for user, item, score in zip(lists["user"], lists["item"], lists["score"], strict=True):
            table = model.why(user, item)
            assert table["share"].sum() == pytest.approx(score, abs=1e-5)
            if how != "weights" or model is learn:
                assert table.attrs["method"] == "least squares" and table.attrs["exact"]


def test_a_history_with_counts_is_told():
    learn = counted_learner("linear")
    history = pd.DataFrame({"user": "new", "item": [1001, 1005, 1012], "qty": [9.0, 1.0, 2.0]})
    found = learn.recommend(history=history, k=3)
    for item, score in zip(found["item"], found["score"], strict=True):
        table = learn.why(history=history, item=item)
        assert sorted(past(table)["item"]) == [1001, 1005, 1012] and table.attrs["exact"]
        assert table["share"].sum() == pytest.approx(score, abs=1e-5)
    once = learn.why(history=history.assign(qty=1.0), item=found["item"][0])
    assert not np.allclose(sorted(past(once)["share"]), sorted(past(table)["share"]))


# --- several stages, and what cannot be told --------------------------------------------------------------------------


def test_a_pipeline_is_explained_by_its_ranker():
    dls = dataloaders()
    ease = EASE(20).fit(dls)
    learn = collab_learner(dls, model=CollFilter, n_factors=8, loss_func="bpr", seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(4, 2e-2)
    rec = Pipeline(ease, learn, n_candidates=30).recommender
    lists = rec.recommend("u1", k=3, why=True)
    table = rec.why("u1", lists["item"][0])
    assert table["share"].sum() == pytest.approx(lists["score"][0], abs=1e-5)
    pd.testing.assert_frame_equal(past(table), past(learn.why("u1", lists["item"][0])))
    assert lists["because"][0] == table["item"][0]
    last = rec.recommend("u1", k=30)["item"]
    hidden = np.setdiff1d(ITEMS["item"], [*last, *events_of(rec, "u1")])[0]
    with pytest.raises(ValueError, match="has no score for this user"):
        rec.why("u1", hidden)


class Graph(Model):
    """Users who are computed from the training data as a whole."""

    def __init__(self, n_users, n_items):
        super().__init__(Side("user", n_users, [4]), TableSide("item", n_items, [4]))
        self.user_side.rows = lambda query: (torch.ones(*query.shape, 4),)

    def config(self):
        return {}

    def interact(self, user_rows, item_rows):
        return (user_rows[0] * item_rows[0]).sum(-1)


@pytest.mark.filterwarnings("ignore::collabkit.CollabWarning")
def test_what_cannot_be_told_is_refused_before_any_work():
    data = MAKE["ease"]().data
    rec = Recommender(Graph(data.n_users, data.n_items), data)
    for ask in (lambda: rec.why("u1", "i03"), lambda: rec.recommend("u1", why=True)):
        with pytest.raises(TypeError, match="the users of Graph are computed from the training data"):
            ask()
    ease = MAKE["ease"]()
    for asked, error, match in (
        ({"user": "u1"}, ValueError, "needs item="),
        ({"item": "i03"}, ValueError, "either user= or"),
        ({"user": "u1", "item": "i03", "history": ["i01"]}, ValueError, "either user= or"),
        ({"user": "nobody", "item": "i03"}, KeyError, "nobody"),
        ({"user": "u1", "item": "nothing"}, KeyError, "nothing"),
        ({"user": ["u1", "u2"], "item": "i03"}, ValueError, "one user and one item; got 2 and 1"),
        ({"user": "u1", "item": "i03", "by": "stars"}, ValueError, "by must be 'history'"),
    ):
        with pytest.raises(error, match=match):
            ease.why(**asked)
    for odd in (0, -1, 1.5, "top"):
        with pytest.raises(ValueError, match="why must be a whole number"):
            ease.recommend("u1", why=odd)
    assert ease.recommend("u1", why=False).equals(ease.recommend("u1", why=None))


def test_interpretation_tells_both():
    rec = MAKE["ratings"]()
    interp = CollabInterpretation(rec)
    assert interp.why("u1", "i03", by="history").equals(rec.why("u1", "i03"))
    assert interp.why("u1", "i03")["part"].tolist() == ["global", "user bias", "item bias", "factors", "score"]


def test_parts_of_rows_sum_to_the_rows():
    for name in ("dot", "ratings", "network"):
        rec = MAKE[name]()
        users = torch.tensor([4, 9, 30])
        told = histories_of(rec.data.trained, users)[0]
        rows = torch.cat(rec.fold.rows(told, users), 1).double()
        origin, pieces = rec.fold.pieces(told, users)
        total = origin.index_add(0, told.rows, pieces)
        torch.testing.assert_close(total, rows, atol=1e-5, rtol=1e-4)
        query = Query(users, rows=tuple(part.float() for part in rows.split(rec.model.user_side.widths, 1)))
        items = torch.tensor([[1, 2]] * 3)
        shares = rec._explainer().shares(query, told, items)
        if rec.fold.scores.linear:
            logits = rec.model.score(query, items).detach().double()
            torch.testing.assert_close(
                shares.prior.index_add(0, told.rows, shares.values), logits, atol=1e-4, rtol=1e-4
            )
