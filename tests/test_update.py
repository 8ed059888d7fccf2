"""`update`: new events of known and new users and items; what is concerned is solved for, the rest stays to the bit."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from contract import N_GROUPS, planted, same
from helpers import silence

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabWarning,
    Implicit,
    ItemKNN,
    NextItem,
    Pipeline,
    Popularity,
    Recommender,
    SASRec,
    TwoTower,
    collab_learner,
    load_learner,
    splits,
)

NAMES = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "bs": 64}
KINDS = {
    "als": {"feedback": "implicit"},
    "bpr": {"feedback": "implicit"},
    "two towers": {"feedback": "implicit"},
    "network": {"feedback": "implicit"},
    "rated": {"rating_name": "rating"},
    "sequence": {"feedback": "implicit", "history": 8},
    "mixed": {"feedback": "implicit", "history": 8},
}
OPTIONS = {
    "bpr": {"loss_func": "bpr"},
    "two towers": {"model": TwoTower},
    "network": {"use_nn": True},
    "rated": {"y_range": (0.5, 5.5)},
    "sequence": {"model": SASRec, "length": 8},
    "mixed": {"model": SASRec, "length": 8, "user_table": True},
}


def quiet(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return function(*args, **kwargs)


def trained(kind: str, table=None, **options):
    table = planted(kind == "rated") if table is None else table
    dls = quiet(CollabDataLoaders.from_df, table, **{**NAMES, **KINDS[kind], **options})
    learn = silence(collab_learner(dls, **{"n_factors": 8, **OPTIONS.get(kind, {})}))
    if kind == "als":
        learn.fit_als(6, reg=0.007, unobserved_weight=0.3)
    else:
        learn.fit_one_cycle(25 if kind == "network" else 10, 2e-2)
    return learn


def events(rows, rating: float = 5.0) -> pd.DataFrame:
    """Rows `(user, item)` later than all others."""
    table = pd.DataFrame(rows, columns=["user", "item"])
    return table.assign(rating=rating, time=10**6 + np.arange(len(table)))


def unseen(learn, user: str, n: int, group: int | None = None) -> list[str]:
    """Items of a group that a user has not met."""
    data = learn.dls.data
    met = set(data.items.decode(data.seen.of([data.users.o2i[user]]).values))
    own = [f"i{j:02d}" for j in range(60) if group is None or j % N_GROUPS == group]
    return [item for item in own if item not in met][:n]


def mine(group: int, n: int) -> list[str]:
    return [f"i{j:02d}" for j in range(60) if j % N_GROUPS == group][:n]


@pytest.mark.parametrize("kind", KINDS)
def test_users_concerned_change_and_nothing_else_does(kind):
    learn = trained(kind)
    user, other = "u3", ("u0", "u1", "u2")  # group 3 begins to like group 1
    before = learn.recommend(k=10)
    state = {name: value.clone() for name, value in learn.model.state_dict().items()}
    new = events([(user, item) for item in unseen(learn, user, 10, group=1)] + [("new", item) for item in mine(2, 6)])
    assert learn.update(new) is learn
    found = learn.recommend(k=10)
    met = set(new["item"][new["user"] == user])
    assert not met & set(found["item"][found["user"] == user])
    same(found[~found["user"].isin([user, "new"])], before[before["user"] != user])
    group = found["item"][found["user"] == "new"].str[1:].astype(int) % N_GROUPS
    if kind != "mixed":  # which had 8 places to look back
        assert (group[:5] == 2).mean() >= 0.6
    old = learn.dls.data.users.o2i[user]
    for name, value in learn.model.state_dict().items():  # to the bit
        rows = torch.ones(len(state[name]), dtype=torch.bool)
        if name.startswith("user_side.tables"):
            rows[old] = False
        assert torch.equal(value[: len(rows)][rows], state[name][rows]), name
    assert len(found[found["user"].isin(other)]) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_new_items_are_found_by_those_who_like_their_kind(kind):
    learn = trained(kind)
    fans, others = [f"u{j}" for j in range(2, 82, 4)], [f"u{j}" for j in range(3, 83, 4)]
    low = events([(user, "fresh") for user in others], 1.0) if kind == "rated" else None
    before = learn.recommend("u118", k=60, filter_seen=False).set_index("item")["score"]
    learn.update(pd.concat([events([(user, "fresh") for user in fans]), low]))
    place = {}
    for user in ("u118", "u119"):  # groups 2 and 3, neither of whom has met it
        scores = learn.recommend(user, k=61, filter_seen=False).set_index("item")["score"]
        place[user] = (scores > scores["fresh"]).mean()
    if kind == "mixed":
        assert place["u118"] < 0.6
    else:
        assert place["u118"] < 0.45 and place["u118"] < place["u119"]
    scores = learn.recommend("u118", k=61, filter_seen=False).set_index("item")["score"]
    assert np.allclose(scores[before.index], before, atol=1e-5)  # the scores of the others


def test_als_rows_are_the_exact_solution():
    """The normal equations of Hu, Koren and Volinsky (2008), with the regularisation of `ALSSolver`."""
    learn = trained("als")
    options = {"reg": 0.007, "unobserved_weight": 0.3}
    new = events([("u3", item) for item in unseen(learn, "u3", 4)] + [("new", item) for item in mine(2, 5)])
    new = pd.concat([new, events([(f"u{j}", "fresh") for j in range(0, 40, 4)])])
    learn.update(new)
    data, model = learn.dls.data, learn.model
    P, Q = (table.weight.detach().double() for table in (model.u_weight, model.i_weight))
    trained_items, trained_users = (data.train.counts(side) > 0 for side in ("item", "user"))
    for name, side, own, others, there in (
        ("u3", "user", P, Q, trained_items),
        ("new", "user", P, Q, trained_items),
        ("fresh", "item", Q, P, trained_users),
    ):
        row = getattr(data, f"{side}s").o2i[name]
        runs = data.train.pairs if side == "user" else data.train.pairs.transposed()
        met, w, n = runs.of([row]).values, options["unobserved_weight"], len(others) - 1
        Y = others * there[:, None]
        A = Y[met].T @ Y[met] + w * Y.T @ Y + options["reg"] * (len(met) + w * n) * torch.eye(8).double()
        exact = torch.linalg.solve(A, Y[met].sum(0))
        close = 1e-5 if side == "user" else 2e-2  # users are solved for after the items, once more
        assert torch.allclose(own[row], exact, atol=close), (name, (own[row] - exact).abs().max())


@pytest.mark.parametrize("kind", ["als", "bpr", "rated", "sequence"])
def test_a_recommender_learns_on_without_training(kind, tmp_path):
    learn = trained(kind)
    rec = Recommender.load(learn.export(tmp_path / "artefact"))
    new = events([("u3", item) for item in unseen(learn, "u3", 6, group=1)] + [("new", item) for item in mine(2, 6)])
    assert rec.update(new) is rec
    learn.update(new)
    same(rec.recommend(k=5), learn.recommend(k=5))
    again = Recommender.load(rec.save(tmp_path / "updated"))
    assert again.recommend(k=5).equals(rec.recommend(k=5))
    once_more = events([("new", item) for item in mine(2, 9)[6:]])
    again.update(once_more)
    assert not set(again.recommend("new", k=5)["item"]) & set(mine(2, 9))


@pytest.mark.parametrize("model", [EASE(l2=50.0), ItemKNN(), Popularity(), NextItem()])
def test_closed_form_models_are_those_of_a_refit(model, tmp_path):
    table = planted()
    late = table["time"] > table["time"].quantile(0.9)
    new = pd.concat([table[late].drop(columns=["rating", "device"]), events([("new", "i01"), ("u1", "fresh")])])
    kind = {"history": 10} if isinstance(model, NextItem) else {}
    dls = quiet(CollabDataLoaders.from_df, table[~late], feedback="implicit", valid_pct=0, **kind, **NAMES)
    rec = Recommender.load(model.fit(dls).export(tmp_path / "artefact"))
    rec.update(new)
    whole = pd.concat([table[~late], new])
    dls = quiet(CollabDataLoaders.from_df, whole, feedback="implicit", valid_pct=0, **kind, **NAMES)
    refit = type(model)(**model.config()).fit(dls)
    found, wanted = (m.recommend(k=5).sort_values(["user", "rank"]) for m in (rec, refit))
    # ties fall by the order of the ids, which new ones are at the end of
    assert np.allclose(found["score"], wanted["score"], rtol=1e-4, atol=1e-6)
    if not isinstance(model, Popularity):
        assert (found["item"].to_numpy() == wanted["item"].to_numpy()).mean() > 0.9
    assert model.update(new) is model
    same(model.recommend(k=5), rec.recommend(k=5))


def test_histories_hold_the_new_events_in_their_order():
    learn = trained("sequence")
    new = events([("u3", "i07"), ("u3", "i03"), ("u3", "i03")])
    learn.update(new.iloc[::-1])
    data = learn.dls.data
    assert data.items.decode(data.latest.of([data.users.o2i["u3"]]).values)[-3:].tolist() == ["i07", "i03", "i03"]
    recent = trained("sequence").recommend("u3", k=5, recent=new)
    same(learn.recommend("u3", k=5), recent)  # as if they had been told for one call


def test_known_rows_are_left_out_and_counted():
    learn = trained("bpr")
    data, table = learn.dls.data, planted()
    before, weights = learn.dls, {name: value.clone() for name, value in learn.model.state_dict().items()}
    with pytest.warns(CollabWarning, match="40 of 40 rows are already known"):
        learn.update(table[:40])
    assert learn.dls is before and learn.dls.data is data
    assert all(torch.equal(value, weights[name]) for name, value in learn.model.state_dict().items())
    twice = events([("u3", unseen(learn, "u3", 1)[0])] * 3)
    with pytest.warns(CollabWarning, match="22 of 23 rows are already known, or repeat another"):
        learn.update(pd.concat([table[:20], twice]))
    assert len(learn.dls.data.train) == len(data.train) + 1


def test_repeats_are_events_where_they_count_as_such():
    learn = trained("sequence")
    n, known = len(learn.dls.data.train), planted()[:30]
    with pytest.warns(CollabWarning, match="30 of 60 rows are already known"):
        learn.update(pd.concat([known, known.assign(time=known["time"] + 10**6)]))
    assert len(learn.dls.data.train) == n + 30


def test_of_ratings_the_newer_one_counts():
    learn = trained("rated")
    data, table = learn.dls.data, planted(rated=True)
    known = table[table["user"] == "u3"][:6]
    with pytest.warns(CollabWarning, match="3 known ratings are replaced by newer ones") as caught:
        rows = [known[:3].assign(rating=1.5, time=10**7), known[3:5].assign(rating=1.5, time=-1), known[5:6]]
        learn.update(pd.concat(rows))
    assert any("3 of 6 rows are already known" in str(w.message) for w in caught)
    now = pd.concat([part.to_df() for part in learn.dls.data.parts[:2]])
    now = now[now["user"] == "u3"].set_index("item")["rating"]
    assert (now[known["item"][:3]] == 1.5).all() and (now[known["item"][3:]] != 1.5).all()
    assert len(now) == (table["user"] == "u3").sum()  # no pair is there twice
    assert len(learn.dls.data.train) + len(learn.dls.data.valid) == len(data.train) + len(data.valid)


@pytest.mark.parametrize("kind", ["als", "rated", "sequence"])
def test_what_cannot_be_taken_in_is_refused_before_anything_changes(kind):
    learn = trained(kind)
    data, state = learn.dls.data, {name: value.clone() for name, value in learn.model.state_dict().items()}
    good = events([("new", "i01"), ("new", "fresh")])
    for bad, error, message in (
        (good[:0], ValueError, "empty"),
        (good.assign(user=[1, 2]), TypeError, "'user' ids are of type str.*received type number"),
        (good.assign(item=[1, 2]), TypeError, "'item' ids are of type str.*received type number"),
        (good.drop(columns="item"), KeyError, "item"),
        (good.drop(columns="time"), KeyError, "time"),
        (good.assign(user=["new", None]), ValueError, "missing"),
        (good.assign(time=[1.0, np.nan]), ValueError, "missing time"),
        ([("new", "i01")], TypeError, "update needs a DataFrame"),
        (None, TypeError, "update needs a DataFrame"),
    ):
        with pytest.raises(error, match=message):
            learn.update(bad)
    if kind == "rated":
        with pytest.raises(ValueError, match="lie outside y_range"):
            learn.update(good.assign(rating=9.0))
        with pytest.raises(ValueError, match="missing"):
            learn.update(good.assign(rating=[np.nan, 4.0]))
    with pytest.raises(TypeError, match="users= has user features"):
        learn.update(good, users=pd.DataFrame({"user": ["new"], "age": [3]}))
    assert learn.dls.data is data and learn.model.n_items == data.n_items
    assert all(torch.equal(value, state[name]) for name, value in learn.model.state_dict().items())
    assert learn.model.items == data.items
    quiet(learn.update, good)
    assert len(learn.recommend("new", k=3)) == 3


def test_features_of_new_ids_come_along():
    table = planted()
    items = pd.DataFrame({"item": sorted(table["item"].unique())})
    items["group"] = "g" + (items["item"].str[1:].astype(int) % N_GROUPS).astype(str)
    dls = quiet(CollabDataLoaders.from_df, table, feedback="implicit", items=items, **NAMES)
    learn = silence(collab_learner(dls, n_factors=8))
    learn.fit_one_cycle(10, 2e-2)
    more = pd.DataFrame({"item": ["fresh", "alone", "i01"], "group": ["g2", "g1", "g1"]})
    with pytest.warns(CollabWarning, match="1 of 3 rows of items= have ids that are already known"):
        learn.recommender.update(events([("u2", "fresh")]), items=more)
    assert {"fresh", "alone"} <= set(learn.dls.data.items.ids) or {"fresh", "alone"} <= set(learn.recommender.items.ids)
    order = learn.recommender.recommend("u118", k=62, filter_seen=False)["item"].tolist()
    assert order.index("fresh") < order.index("alone")  # by the features, and by who met it


def test_what_an_update_leaves_can_be_trained_evaluated_folded_and_refitted(tmp_path):
    learn = trained("bpr")
    held_out = len(learn.dls.data.valid)
    learn.update(events([("new", item) for item in mine(2, 6)] + [("new", "fresh")]))
    assert len(learn.dls.data.valid) == held_out and len(learn.evaluate(metrics=["NDCG"])) == 1
    learn.fold_in(pd.DataFrame({"user": ["guest"] * 3, "item": mine(1, 3)}))
    learn.update(events([("guest", item) for item in mine(1, 5)[3:]]))
    assert not set(learn.recommend("guest", k=5)["item"]) & set(mine(1, 5))
    learn.recommend(history=["fresh", "i01"], k=3)
    learn.fit(1, 1e-3)
    final = learn.refit_all()
    assert len(final.dls.data.train) == len(learn.dls.data.train) + held_out and "fresh" in final.dls.data.items
    again = silence(load_learner(final.export(tmp_path / "artefact")))
    again.update(events([("newer", item) for item in mine(3, 5)]))
    assert len(again.recommend("newer", k=3)) == 3


def test_a_learner_without_a_validation_part_takes_new_ids_in_and_trains_on():
    learn = trained("bpr", valid_pct=0)
    learn.update(events([("u2", "fresh"), ("new", "i02")]))
    learn.fit(1, 1e-3)
    assert "fresh" in learn.dls.data.items


def test_without_times_and_with_weights():
    table = planted().drop(columns="time")
    names = {name: value for name, value in NAMES.items() if name != "time_name"}
    dls = quiet(CollabDataLoaders.from_df, table, feedback="implicit", weights="inverse_user", **names)
    learn = silence(collab_learner(dls, n_factors=8))
    learn.fit(2, 1e-2)
    learn.update(events([("new", item) for item in mine(2, 6)]).drop(columns="time"))
    assert len(learn.dls.data.train.weight) == len(learn.dls.data.train)
    dls = quiet(CollabDataLoaders.from_df, table.assign(w=1.0), feedback="implicit", weights="w", **names)
    learn = silence(collab_learner(dls, n_factors=8))
    learn.fit(1, 1e-2)
    data = learn.dls.data
    with pytest.raises(ValueError, match="known for the training rows alone"):
        learn.update(events([("new", "i01")]))
    assert learn.dls.data is data and learn.model.n_users == data.n_users


def test_models_without_a_way_are_refused():
    dls = trained("bpr").dls
    with pytest.raises(TypeError, match="update each of its models"):
        Pipeline([ItemKNN().fit(dls)], EASE().fit(dls)).update(events([("new", "i01")]))


def test_an_older_artefact_is_updated_by_folding_in(tmp_path):
    learn = trained("als")
    assert learn.model.als["reg"] == 0.007
    learn.model.als = None  # older versions do not say how tables were trained
    rec = Recommender.load(learn.export(tmp_path / "artefact"))
    rec.update(events([("new", item) for item in mine(2, 6)]))
    group = rec.recommend("new", k=5)["item"].str[1:].astype(int) % N_GROUPS
    assert rec.model.als is None and (group == 2).sum() >= 3


@pytest.mark.parametrize("fit", ["als", "gradient"])
def test_a_learner_of_counts_takes_later_events_in_also_after_a_refit(fit):
    rng, n = np.random.default_rng(0), 2000
    table = pd.DataFrame(
        {"user": rng.integers(0, 60, n), "item": rng.integers(0, 30, n), "plays": rng.integers(1, 9, n)}
    )
    how = Implicit(counts="plays", confidence="log", alpha=5)
    dls = quiet(CollabDataLoaders.from_df, table[:1900], user_name="user", item_name="item", feedback=how, seed=0)
    learn = collab_learner(dls, 4, loss_func="bpr", seed=0)
    with learn.no_bar(), learn.no_logging():
        if fit == "als":
            quiet(learn.fit_als, 3)
        else:
            learn.fit_one_cycle(1, 1e-2)
        final = quiet(learn.refit_all)
    more = table[1900:].assign(user=lambda df: df["user"] + 1000)
    for model in (learn, final):
        before = model.dls.data.train.count.sum()
        quiet(model.update, more)
        assert model.dls.data.train.count.sum() == before + more["plays"].sum()
        assert model.dls.train.dataset.weight is not None
        assert len(model.recommend([more["user"].iloc[0]])) == 10


@pytest.mark.parametrize("counts", ["plays", "repeats"])
def test_counts_of_later_events_add_up(counts):
    table = pd.DataFrame({"user": [1, 1, 2, 2, 3, 3, 4], "item": list("abacbcb"), "plays": [2, 1, 5, 1, 1, 3, 2]})
    how = Implicit(counts=counts, confidence="linear", alpha=2)
    more = pd.DataFrame({"user": [1, 1, 2, 5, 5], "item": list("aacba"), "plays": [3, 4, -1, 6, 6]})
    whole = {"splitter": splits.no_split(), "feedback": how, "user_name": "user", "item_name": "item", "seed": 0}
    model = ItemKNN().fit(quiet(CollabDataLoaders.from_df, table, **whole))
    quiet(model.update, more)
    once = quiet(CollabDataLoaders.from_df, pd.concat([table, more], ignore_index=True), **whole).data.train
    found = []
    for part in (model.data.train, once):
        pairs = part.to_df()[["user", "item"]].itertuples(index=False, name=None)
        figures = zip(part.count.tolist(), part.weight.double().numpy().round(5), strict=True)
        found.append(dict(zip(pairs, figures, strict=True)))
    assert found[0] == found[1] and len(found[0]) == (8 if counts == "plays" else 9)
