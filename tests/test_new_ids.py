"""New items and users in a trained model: added by features, folded in by ratings or clicks; what is refused."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Y_RANGE, make_dls, silence, synthetic

from collabkit import Recommender, collab_learner, load_learner
from collabkit.coldstart.histories import read_histories
from collabkit.data.notices import CollabWarning
from collabkit.models import GMF, NCF, CollFilter, NeuMF, TwoTower

ITEM_FEATURES = {"year": "binned", "genres": None}
FILMS = synthetic().items[["title", "year", "genres"]]
NEW_FILMS = pd.DataFrame({"title": ["New A", "New B"], "year": [1995, 2001], "genres": ["Drama|Crime", "Comedy"]})
KINDS = {
    "dot": {"n_factors": 8},
    "nn": {"use_nn": True, "layers": [16], "emb_szs": [6, 5]},
    "clicks": {"n_factors": 8, "init_std": 0.1},
    "ncf": {"model": NCF, "n_factors": 6, "layers": [8]},
    "gmf": {"model": GMF, "n_factors": 6},
    "neumf": {"model": NeuMF, "n_factors": 6, "layers": [8]},
    "towers": {"model": TwoTower, "n_factors": 6, "layers": [8], "item_bias": True},
}
RATED = ("dot", "nn")


def people():
    """Users for a data set that has none."""
    users = synthetic().ratings["user"].unique()
    rng = np.random.default_rng(0)
    n = len(users)
    return pd.DataFrame({"user": users, "gender": rng.choice(["f", "m"], n), "age": rng.integers(18, 70, n)})


def learner(kind="dot", users=True, epochs=3, **kwargs):
    """A trained learner with features of both sides."""
    options = {"items": FILMS, "item_features": ITEM_FEATURES, "users": people() if users else None}
    if kind not in RATED:
        options |= {"feedback": "implicit", "rating_threshold": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = make_dls(**options, **kwargs)
    y_range = {"y_range": Y_RANGE} if kind in RATED else {}
    learn = silence(collab_learner(dls, **y_range, **KINDS[kind]))
    learn.fit_one_cycle(epochs, 1e-2, wd=0.1)
    return learn


def history(rated, n=4):
    titles = FILMS["title"].tolist()[:n]
    return {title: 1 + j % 5 for j, title in enumerate(titles)} if rated else titles


def frame(names, rated, n=4):
    rows = pd.DataFrame({"user": np.repeat(names, n), "title": FILMS["title"].tolist()[:n] * len(names)})
    return rows.assign(rating=[1.0 + j % 5 for j in range(len(rows))]) if rated else rows


def same(a, b):
    pd.testing.assert_frame_equal(a, b, check_exact=True)


NEW_USERS = (9001, 9002)

# --- every model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_everything_new_survives_a_round_trip_to_the_last_digit(kind, tmp_path):
    learn = learner(kind)
    rated = kind in RATED
    old = [1, 2, 3]
    known = learn.recommender.items.ids.tolist()
    before = learn.recommend(old, items=known)
    learn.add_items(NEW_FILMS)
    learn.add_users(pd.DataFrame({"user": [9000], "gender": ["f"], "age": [30]}))
    learn.fold_in(frame(NEW_USERS, rated))
    same(learn.recommend(old, items=known), before)  # ids and scores of the others stay
    everyone = [*old, 9000, *NEW_USERS]
    n = len(known) + 2
    lists = learn.recommend(everyone, k=n, filter_seen=False)
    assert set(NEW_FILMS["title"]) <= set(lists["title"]) and set(lists["user"]) == set(everyone)
    assert np.isfinite(lists["score"]).all()
    rec = Recommender.load(learn.export(tmp_path / "model"))
    same(rec.recommend(everyone, k=n, filter_seen=False), lists)
    same(rec.recommend(history=history(rated)), learn.recommend(history=history(rated)))
    same(rec.similar_items("New A", k=5), learn.similar_items("New A", k=5))
    again = load_learner(tmp_path / "model")
    same(again.recommend(everyone), rec.recommend(everyone))
    assert not set(again.recommend(9001, k=100)["title"]) & set(history(rated))  # hidden for good
    same(rec.data.folded.to_df(), learn.recommender.data.folded.to_df())
    assert len(rec.data.folded) == 2 * len(history(rated))


@pytest.mark.parametrize("kind", KINDS)
def test_a_history_is_answered_without_a_trace(kind):
    learn = learner(kind, epochs=1)
    rated, n_users = kind in RATED, len(learn.dls.classes["user"])
    weights = {name: value.clone() for name, value in learn.model.state_dict().items()}
    single = learn.recommend(history=history(rated), k=5)
    assert list(single.columns) == ["title", "rank", "score"] and len(single) == 5
    assert not set(single["title"]) & set(history(rated))
    assert set(learn.recommend(history=history(rated), filter_seen=False, k=149)["title"]) >= set(history(rated))
    many = learn.recommend(history=frame(["a", "b"], rated), k=5)
    assert many["user"].tolist() == ["a"] * 5 + ["b"] * 5
    same(many[many["user"] == "a"][["title", "rank"]].reset_index(drop=True), single[["title", "rank"]])
    assert all(torch.equal(value, weights[name]) for name, value in learn.model.state_dict().items())
    assert len(learn.dls.classes["user"]) == n_users


def test_tastes_are_recovered_from_a_history():
    learn = learner("dot", users=False, epochs=8)
    user = 7
    own = learn.dls.train.dataset.to_df().query("user == @user")
    got = learn.recommend(history=dict(zip(own["title"], own["rating"], strict=True)), k=150, filter_seen=False)
    own_scores = learn.recommend(user, k=150, filter_seen=False).set_index("title")["score"]
    default = learn.recommender.default_list(150).set_index("title")["score"]
    mine = got.set_index("title")["score"]
    assert mine.corr(own_scores) > max(0.9, default.corr(own_scores))


# --- added by features -----------------------------------------------------------------------------------------------


def test_new_films_are_scored_by_their_features():
    learn = learner("dot", users=False, epochs=8)
    liked = learn.recommender.model.item_side.features
    twin = FILMS.iloc[[0, 1]].assign(title=["twin 0", "twin 1"])
    learn.add_items(twin)
    genre = pd.DataFrame({"title": ["A", "B"], "year": [1995, 1995], "genres": ["Drama", "Horror"]})
    trained = FILMS[FILMS["title"].isin(learn.dls.train.items["title"].unique())]
    known = learn.recommend(k=150, filter_seen=False).groupby("title")["score"].mean()
    means = {g: known[trained.loc[trained["genres"].str.contains(g), "title"]].mean() for g in genre["genres"]}
    learn.add_items(genre)
    new = learn.recommend(k=2, items=["A", "B"]).groupby("title")["score"].mean()
    assert np.sign(new["A"] - new["B"]) == np.sign(means["Drama"] - means["Horror"])  # as films of the genre are
    idx = torch.from_numpy(learn.recommender.items.encode(["twin 0", "twin 1"]))
    old = torch.from_numpy(learn.recommender.items.encode(FILMS["title"][:2]))
    assert torch.equal(liked.features.matrix(idx), liked.features.matrix(old))
    rows = learn.model.item_rows(idx)
    want = [own + part for own, part in zip(liked.cold_rows(idx), liked(idx), strict=True)]
    for row, expected in zip(rows, want, strict=True):
        assert torch.allclose(row, expected, atol=1e-6)


def test_cold_items_are_predicted_better_with_features():
    """Planted genres: held-out films are rated nearer the truth with features than without."""
    data = synthetic(n_users=300, n_items=200, n_ratings=12000)
    from collabkit.data.splits import cold_items

    errors = {}
    for name, extra in {"without": {}, "with": {"items": data.items[["title", "year", "genres"]]}}.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollabWarning)
            dls = make_dls(data.ratings, splitter=cold_items(0.2, seed=3), **extra)
        learn = silence(collab_learner(dls, n_factors=8, y_range=Y_RANGE))
        learn.fit_one_cycle(8, 1e-2, wd=0.2)
        table = learn.evaluate(by="cold", n_boot=1)
        errors[name] = table.loc[("cold item", "RMSE"), "value"]
    assert errors["with"] < 0.99 * errors["without"]
    assert errors["with"] > data.truth.rmse  # no better than the noise allows


def test_training_goes_on_with_new_ids():
    learn = learner("dot")
    learn.add_items(NEW_FILMS).fold_in(frame(NEW_USERS, True))
    row = learn.model.u_weight.weight[-1].clone()
    learn.fit(1, 1e-3)
    assert len(learn.model.u_weight.weight) == 203
    fresh = learn.recommend(history=frame(NEW_USERS, True).query("user == 9002"), k=5)
    kept = learn.recommend(9002, k=5)
    assert fresh["title"].tolist() == kept["title"].tolist()  # folded into what training made
    assert not torch.equal(row, learn.model.u_weight.weight[-1])
    assert np.isfinite(learn.predict(9001, "New A"))


def test_a_user_may_come_again_with_more():
    learn = learner("dot", users=False)
    first = frame([9001], True, n=2)
    learn.fold_in(first)
    learn.fold_in(frame([9001], True, n=4).tail(2))
    straight = learner("dot", users=False)
    straight.fold_in(frame([9001], True, n=4))
    same(learn.recommend(9001), straight.recommend(9001))
    assert len(learn.recommender.data.folded) == 4


def test_evaluation_knows_new_ids():
    learn = learner("dot")
    learn.add_items(NEW_FILMS).fold_in(frame(NEW_USERS, True))
    test = pd.DataFrame({"user": [9001, 1], "title": ["New A", "New B"], "rating": [4.0, 5.0]})
    table = learn.evaluate(test, by="cold")
    assert table.loc[("cold both", "RMSE"), "n"] == 1 and table.loc[("cold item", "RMSE"), "n"] == 1


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared():
    return learner("dot")


@pytest.fixture(scope="module")
def clicked():
    return learner("clicks")


def test_ids_that_exist(shared):
    with pytest.raises(ValueError, match=r"1 of 1 new 'title' id\(s\) exist already"):
        shared.add_items(FILMS.head(1))
    with pytest.raises(ValueError, match="exist already: 1"):
        shared.add_users(pd.DataFrame({"user": [1], "gender": ["f"], "age": [3]}))
    with pytest.raises(ValueError, match=r"1 user\(s\) have training rows, e.g. 2"):
        shared.fold_in(frame([9003, 2], True))
    with pytest.raises(ValueError, match="more than one feature row"):
        shared.add_items(pd.concat([NEW_FILMS, NEW_FILMS]))


def test_new_rows_without_their_columns(shared):
    with pytest.raises(KeyError, match=r"column\(s\) \['genres'\] not found"):
        shared.add_items(NEW_FILMS.drop(columns="genres"))
    with pytest.raises(KeyError, match=r"column\(s\) \['title'\] not found in the table of new items"):
        shared.add_items(NEW_FILMS.rename(columns={"title": "film"}))
    with pytest.raises(TypeError, match=r"need a DataFrame with the columns \['title', 'year', 'genres'\], got list"):
        shared.add_items(["New A"])
    assert len(shared.dls.classes["title"]) == 151 and shared.model.n_items == 151  # nothing half done


def test_models_without_features():
    learn = silence(collab_learner(make_dls(), n_factors=4, y_range=Y_RANGE))
    with pytest.raises(TypeError, match="no item features, so nothing is known about a new item: train with items="):
        learn.add_items(NEW_FILMS)
    with pytest.raises(TypeError, match=r"or fold_in\(ratings\) them"):
        learn.add_users(people())


def test_a_category_unseen_in_training_is_counted(shared):
    learn = learner("dot", epochs=1)
    with pytest.warns(
        CollabWarning, match=r"1 value\(s\) of 'genres' are categories unseen in training \('Nonsense'\)"
    ):
        learn.add_items(NEW_FILMS.assign(genres=["Drama|Nonsense", "Drama"]))


def test_unknown_items_in_a_history(shared):
    with pytest.raises(KeyError, match="Nowhere"):
        shared.recommend(history={"Nowhere": 5})
    with pytest.warns(CollabWarning, match="of 2 rows of history 1 name items that the model does not know"):
        got = shared.recommend(history={"Nowhere": 5, FILMS["title"][0]: 4})
    same(got, shared.recommend(history={FILMS["title"][0]: 4}))
    rows = pd.concat([frame(["a"], True), pd.DataFrame({"user": ["a"], "title": ["Nowhere"], "rating": [3.0]})])
    with pytest.warns(CollabWarning, match="1 name items that the model does not know and are left out"):
        got = shared.recommend(history=rows)
    same(got, shared.recommend(history=frame(["a"], True)))
    nobody = pytest.raises(ValueError, match=r"1 user\(s\) have no item that the model knows, e.g. 'b'")
    with nobody, pytest.warns(CollabWarning, match="left out"):
        shared.recommend(history=pd.concat([rows, rows.tail(1).assign(user="b")]))


def test_a_table_without_users_is_one_user(shared, clicked):
    for learn, rated in ((shared, True), (clicked, False)):
        table = frame(["a"], rated)
        if rated:
            table["rating"] = list(history(True).values())
        alone = learn.recommend(history=table.drop(columns="user"), k=5)
        same(alone, learn.recommend(history=history(rated) if rated else table["title"].tolist(), k=5))
        assert "user" not in alone
        with pytest.raises(KeyError, match=r"lacks the column\(s\) \['user'\]"):  # it may be misspelt
            learn.recommend(history=table.rename(columns={"user": "usr"}))
        with pytest.raises(KeyError, match=r"\['user'\]"):
            learn.fold_in(table.drop(columns="user"))


def test_empty_histories(shared, clicked):
    for learn, empty in ((shared, {}), (clicked, [])):
        with pytest.raises(ValueError, match="the history is empty"):
            learn.recommend(history=empty)
    with pytest.raises(ValueError, match="empty"):
        shared.fold_in(frame(["a"], True).head(0))


def test_histories_of_another_kind(shared, clicked):
    with pytest.raises(TypeError, match="trained on ratings: history must be a dict"):
        shared.recommend(history=FILMS["title"].tolist()[:2])
    with pytest.raises(TypeError, match="must be a list of items, got a dict"):
        clicked.recommend(history={FILMS["title"][0]: 5})
    with pytest.raises(KeyError, match=r"the history lacks the column\(s\) \['rating'\] of the model"):
        shared.recommend(history=frame(["a"], False))
    with pytest.raises(TypeError, match=r"got the text .*; for one item pass \["):
        clicked.recommend(history=FILMS["title"][0])
    with pytest.raises(ValueError, match="1 of 1 rows of users= belong to users without a known rating, e.g. 7001"):
        shared.fold_in(
            frame(["a"], True).assign(user=5001), pd.DataFrame({"user": [7001], "gender": ["f"], "age": [30]})
        )
    with pytest.raises(TypeError, match="fold_in needs a DataFrame"):
        shared.fold_in({FILMS["title"][0]: 5})
    with pytest.raises(ValueError, match="leave out users="):
        shared.recommend(1, history=history(True))


@pytest.mark.parametrize(("rating", "message"), [(9.0, "outside y_range"), (np.nan, "is nan"), ("five", "is 'five'")])
def test_ratings_out_of_range(shared, rating, message):
    with pytest.raises(ValueError, match=message):
        shared.recommend(history={FILMS["title"][0]: rating})


def test_repeated_pairs_count_once_the_last_one():
    learn = learner("dot", epochs=1)
    title = FILMS["title"][0]
    rows = pd.DataFrame({"user": [1, 1, 2], "title": [title] * 3, "rating": [1.0, 5.0, 5.0]})
    with pytest.warns(CollabWarning, match="1 repeat a"):
        histories = read_histories(rows, learn.recommender.data, rated=True).histories
    assert histories.weight.tolist() == [5, 5] and histories.start.tolist() == [0, 1, 2]


def test_baselines_answer_histories_and_have_no_rows():
    from collabkit.models import Popularity

    popular = Popularity().fit(make_dls())
    with pytest.raises(TypeError, match="the model has no item features, so nothing is known about a new item"):
        popular.recommender.add_items(NEW_FILMS)
    with pytest.raises(TypeError, match="needs a model with rows for users; those of Popularity are computed"):
        popular.recommender.questionnaire()
    rows = frame([9001], True)  # a history is all that it looks at
    answer, rec = popular.recommend(history=rows), popular.recommender.fold_in(rows)
    same(rec.recommend([9001]), answer)
    assert not set(answer["title"]) & set(rows["title"])


def test_models_that_take_no_features():
    class Plain(CollFilter):
        def __init__(self, n_users, n_items, n_factors=4):
            super().__init__(n_users, n_items, n_factors)

    dls = make_dls(items=FILMS)
    with pytest.raises(TypeError, match="Plain takes no side features"):
        collab_learner(dls, model=Plain)
    with pytest.raises(ValueError, match="id_dropout must lie in"):
        collab_learner(dls, id_dropout=1.0, y_range=Y_RANGE)
    with pytest.raises(ValueError, match="feature_szs names features"):
        collab_learner(dls, use_nn=True, feature_szs={"genre": 3}, y_range=Y_RANGE)
    with pytest.raises(ValueError, match="rows for tables of"):
        CollFilter(5, 7, features=dls.features)


# --- whole or not at all, and nothing stale --------------------------------------------------------------------------


def sizes(learn):
    """The different numbers of rows and ids that a learner has: one pair, if all is well."""
    rec, model = learn.recommender, learn.model
    parts = [rec.train, rec.valid, rec.data.folded, *(loader.dataset for loader in learn.dls)]
    found = {(part.n_users, part.n_items) for part in parts if part is not None}
    return found | {(model.n_users, model.n_items), (len(model.u_weight.weight), len(model.i_weight.weight))}


def test_a_fold_in_that_fails_leaves_nothing_behind():
    learn = learner("dot", epochs=1)
    before = learn.recommend([1, 2])
    healthy = learn.model.i_weight.weight.detach().clone()
    with torch.no_grad():
        learn.model.i_weight.weight[3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        learn.fold_in(frame(NEW_USERS, True), users=pd.DataFrame({"user": [9001], "gender": ["f"], "age": [30]}))
    with torch.no_grad():
        learn.model.i_weight.weight.copy_(healthy)
    assert sizes(learn) == {(201, 151)} and learn.recommender.data.folded is None
    assert len(learn.model.user_side.features.features) == 201
    same(learn.recommend([1, 2]), before)
    learn.fold_in(frame(NEW_USERS, True))
    assert sizes(learn) == {(203, 151)}


def test_a_recommender_that_grows_takes_its_learner_along(tmp_path):
    learn = learner("dot", epochs=1)
    learn.recommender.add_items(NEW_FILMS)
    assert sizes(learn) == {(201, 153)} and learn.predict(1, "New A") == learn.recommender.predict(1, "New A")
    rec = Recommender.load(learn.export(tmp_path / "model"))
    assert len(rec.items) == 153
    learn.fit(1, 1e-3)


def test_two_learners_on_the_same_dataloaders():
    first = learner("dot", epochs=1)
    second = silence(collab_learner(first.dls, n_factors=4, y_range=Y_RANGE))
    first.add_items(NEW_FILMS)
    assert sizes(first) == {(201, 153)} and sizes(second) == {(201, 151)}
    second.fit(1, 1e-3)
    assert len(second.recommend([1])) == 10


def test_weight_decay_spares_biases_after_growth_too():
    learn = learner("dot", epochs=1)
    learn.add_items(NEW_FILMS).fold_in(frame(NEW_USERS, True))
    learn.create_opt()
    groups = {id(p): g["wd_scale"] for g in learn.opt.opt.param_groups for p in g["params"]}
    assert {groups[id(learn.model.u_bias.weight)], groups[id(learn.model.i_bias.weight)]} == {0.0}
    assert groups[id(learn.model.u_weight.weight)] == 1.0


def test_an_interrupted_fit_and_a_checkpoint_leave_folded_users_folded(tmp_path):
    from fastai.callback.core import Callback

    class Stop(Callback):
        def after_epoch(self):
            self.learn.save("midway")
            raise KeyboardInterrupt

    learn = learner("dot", epochs=2, path=tmp_path)
    learn.fold_in(frame(NEW_USERS, True))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(2, 1e-2, cbs=Stop())
    for _ in range(2):
        fresh = learn.recommend(history=frame(NEW_USERS, True).query("user == 9002"), k=5)
        assert fresh["title"].tolist() == learn.recommend(9002, k=5)["title"].tolist()
        learn.load("midway")


def test_a_checkpoint_from_before_new_ids(tmp_path):
    learn = learner("dot", epochs=1, path=tmp_path)
    learn.save("before")
    learn.add_items(NEW_FILMS)
    weights = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(ValueError, match="the checkpoint has tables of other sizes"):
        learn.load("before")
    assert all(torch.equal(v, weights[k]) for k, v in learn.model.state_dict().items())


def test_histories_are_no_secret_to_the_evaluation():
    from collabkit.data.splits import cold_users

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = make_dls(splitter=cold_users(0.1, seed=0))
    learn = silence(collab_learner(dls, n_factors=4, y_range=Y_RANGE))
    learn.fit(1, 1e-2)
    learn.fold_in(dls.valid.items)
    with pytest.warns(CollabWarning, match=r"occur in the evaluated rows \(or users were folded in by them\)"):
        learn.evaluate(n_boot=1)


def test_times_come_back_beside_folded_users(tmp_path):
    learn = silence(collab_learner(make_dls(time_name="timestamp"), n_factors=4, y_range=Y_RANGE))
    learn.fold_in(frame(NEW_USERS, True))
    rec = Recommender.load(learn.export(tmp_path / "model"))
    assert torch.equal(rec.train.time, learn.recommender.train.time) and rec.train.time.dtype == torch.int64
    assert rec.data.folded.time is None and rec.train.data_hash() == learn.recommender.train.data_hash()


@pytest.mark.parametrize("kind", ["dot", "nn", "clicks"])
def test_bfloat16_with_features(kind):
    learn = learner(kind, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learn.to_bf16()
        learn.fit(1, 1e-3)
    assert not torch.is_autocast_enabled("cpu") and np.isfinite(learn.recorder.values[-1]).all()


def test_features_that_would_be_ignored(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = make_dls(items=FILMS, users=people())
        clicks = make_dls(items=FILMS, feedback="implicit", rating_threshold=4)
    with pytest.raises(ValueError, match="have side features and the model was made without"):
        collab_learner(dls, model=CollFilter(201, 151, 4, Y_RANGE))
    with pytest.raises(ValueError, match="are for models with side features"):
        collab_learner(make_dls(), id_dropout=0.5, y_range=Y_RANGE)
    assert clicks.pointwise().features is clicks.features
    network = collab_learner(dls, use_nn=True, feature_szs={"genres": 7, "age": 2}, y_range=Y_RANGE).model
    assert network.item_side.features.fields[1].width == 7


def test_warnings_point_at_the_caller():
    learn = learner("dot", epochs=1)
    for call in (
        lambda: learn.recommend(1, k=500),
        lambda: learn.add_items(NEW_FILMS.assign(genres="Nonsense")),
        lambda: learn.fold_in(pd.concat([frame(NEW_USERS, True)] * 2)),
        lambda: make_dls(items=FILMS.head(100)),
    ):
        with pytest.warns(CollabWarning) as said:
            call()
        assert all(entry.filename.endswith(("test_new_ids.py", "helpers.py")) for entry in said)


def test_what_is_not_known_is_no_information():
    from collabkit.data.splits import cold_users

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = make_dls(splitter=cold_users(0.2, seed=0), users=people())
    learn = silence(collab_learner(dls, n_factors=4, y_range=Y_RANGE))
    learn.fit_one_cycle(3, 1e-2)
    table = learn.evaluate_fold_in(n_given=3)
    assert table.index.tolist() == [0, 3] and table.loc[0, "RMSE"] != table.loc[0, "no information"]
    assert "CollabLearner: CollFilter, 200 users" in repr(learn)


def test_a_splitter_is_called_first():
    from collabkit.data.splits import cold_items

    with pytest.raises(TypeError, match=r"splitter=cold_items makes a splitter: call it, splitter=cold_items\(\)"):
        make_dls(splitter=cold_items)


@pytest.mark.parametrize("ask", ["fit", "lr_find", "validate", "get_preds", "save", "export", "update", "dls"])
def test_a_learner_goes_on_with_what_its_recommender_took_in_on_its_own(ask, tmp_path):
    """The model has another size then: an optimiser or batches of the old one would write beyond the tables."""
    dls = make_dls(items=FILMS)
    learn = silence(collab_learner(dls, 4, y_range=Y_RANGE, seed=0, path=tmp_path))
    learn.fit(1, 1e-2)
    history = synthetic().ratings.head(5)[["title", "rating"]].assign(user=98_765)
    learn.recommender.fold_in(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ask == "fit":
            learn.fit(1, 1e-2)
        elif ask == "lr_find":
            learn.lr_find(num_it=10, show_plot=False)
        elif ask == "save":
            learn.load(learn.save("weights").stem)
        elif ask == "export":
            learn.export(tmp_path / "artefact")
        elif ask == "update":
            learn.update(synthetic().ratings.tail(3)[["user", "title", "rating"]].assign(user=98_766))
        elif ask == "dls":
            assert learn.dls.data.n_users == learn.model.user_side.n
        else:
            getattr(learn, ask)()
        assert len(learn.recommend(98_765, k=3)) == 3
        learn.fit(1, 1e-2)
        assert len(learn.recommend(98_765, k=3)) == 3
