"""The light runtime answers what `Recommender` answers, for every model and every option, without torch or pandas."""

import warnings

import numpy as np
import pandas as pd
import pytest
from contract import N_GROUPS, planted

from collabkit import (
    EASE,
    GMF,
    CollabDataLoaders,
    CollabWarning,
    CollFilter,
    ContentKNN,
    FactorizationMachine,
    HybridKNN,
    Implicit,
    ItemKNN,
    NextItem,
    Popularity,
    Recommender,
    SASRec,
    TwoTower,
    collab_learner,
    splits,
)
from collabkit.serve.light import Light

GENRES = pd.DataFrame({"item": [f"i{j:02d}" for j in range(60)]})
GENRES["genre"] = [["even", "odd"][j % 2] + ("|big" if j > 40 else "") for j in range(60)]
GENRES["year"] = 1950.0 + np.arange(60)
PEOPLE = pd.DataFrame({"user": [f"u{j}" for j in range(120)], "group": [str(j % N_GROUPS) for j in range(120)]})
HISTORY = [f"i{j:02d}" for j in range(1, 24, N_GROUPS)]


def dataloaders(rated=False, **kwargs):
    table = planted(rated)
    table["plays"] = 1.0 + np.arange(len(table)) % 7
    feedback = {"rating_name": "rating"} if rated else {"feedback": "implicit"}
    options = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "bs": 64}
    return CollabDataLoaders.from_df(table, **{**options, **feedback, "splitter": splits.leave_last_out(), **kwargs})


def learner(model, rated=False, n_epoch=4, features=False, data=None, calibrate=False, **options):
    more = {"items": GENRES, "users": PEOPLE} if features else {}
    learn = collab_learner(dataloaders(rated, **more, **(data or {})), model=model, seed=1, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(n_epoch, 2e-2)
    return learn.recommender


def als(**data):
    learn = collab_learner(dataloaders(**data), model=CollFilter, n_factors=8, seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(3)
    return learn.recommender


def closed(model, features=False, data=None):
    more = {"items": GENRES} if features else {}
    return model.fit(dataloaders(**more, **(data or {}))).recommender


RATED = {"rated": True, "y_range": (0.5, 5.5), "n_factors": 6}
COUNTS = {"feedback": Implicit(counts="plays", confidence="bm25")}
MODELS = {
    "dot": lambda: learner(CollFilter, n_factors=6, loss_func="bpr"),
    "ratings": lambda: learner(CollFilter, **RATED),
    "ratings with features": lambda: learner(CollFilter, features=True, **RATED),
    "als": als,
    "als of counts": lambda: als(**COUNTS),
    "gmf": lambda: learner(GMF, n_factors=6),
    "towers": lambda: learner(TwoTower, n_factors=6, features=True),
    "popularity": lambda: closed(Popularity()),
    "item knn": lambda: closed(ItemKNN(20)),
    "item knn of counts": lambda: closed(ItemKNN(20, shrink=2.0), data=COUNTS),
    "content knn": lambda: closed(ContentKNN(k=10), features=True),
    "hybrid knn": lambda: closed(HybridKNN(k=20), features=True),
    "ease": lambda: closed(EASE(20.0)),
    "ease of counts": lambda: closed(EASE(20.0), data=COUNTS),
    "ease of the last": lambda: closed(EASE(20.0, last=3)),
    "ease by users": lambda: by_users(),
    "next item": lambda: closed(NextItem(l2=5.0), data={"history": 20}),
}
NETWORKS = {
    "factorization machine": lambda: learner(FactorizationMachine, n_factors=6, features=True),
    "cosine towers": lambda: learner(TwoTower, n_factors=6, layers=[8], similarity="cosine", temperature=0.2),
    "sasrec": lambda: learner(SASRec, n_factors=8, data={"history": 20}),
}


def by_users():
    """EASE of more items than users, which it keeps as a map through the users."""
    table = planted()
    table = table[table["user"].isin([f"u{j}" for j in range(28)])]
    names = {"user_name": "user", "item_name": "item", "time_name": "time", "feedback": "implicit", "seed": 0}
    dls = CollabDataLoaders.from_df(table, splitter=splits.leave_last_out(), **names)
    model = EASE(20.0).fit(dls)
    assert len(model.inverse) == 28 and not len(model.weights)
    return model.recommender


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By name: the recommender that was loaded, and the light runtime on the same artefact."""
    found = {}

    def make(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("artefact") / "model"
            rec = {**MODELS, **NETWORKS}[name]()
            if name in ("dot", "ratings"):
                rec.calibrate()
            rec.save(folder)
            found[name] = Recommender.load(folder), Light.load(folder), folder
        return found[name]

    return make


@pytest.fixture(params=MODELS)
def both(request, made):
    return made(request.param)[:2]


@pytest.fixture(params=[*MODELS, *NETWORKS])
def any_of(request, made):
    return made(request.param)[:2]


def rows_of(table):
    """A table as records of plain values, NaN as None."""
    found = table.to_dict("records")
    return [{key: None if isinstance(v, float) and v != v else v for key, v in row.items()} for row in found]


def told(function, *args, **kwargs):
    """What a method gives, or the error, and what it says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CollabWarning)
        try:
            found = function(*args, **kwargs)
        except (KeyError, ValueError, TypeError, NotImplementedError) as error:
            found = type(error)
    return found, [str(one.message) for one in caught if issubclass(one.category, CollabWarning)]


def close(a, b, tolerance=2e-5):
    return abs(a - b) <= tolerance * max(1.0, abs(b)) or a == b


def agree(light, table, by=("user",), value="score"):
    """The same lists: equal scores rank by rank, and the same items but where scores are equal."""
    expected = rows_of(table)
    assert [list(row) for row in light[:1]] == [list(row) for row in expected[:1]]
    assert len(light) == len(expected)
    best = {}
    for mine, other in zip(light, expected, strict=True):
        assert mine["rank"] == other["rank"] and [mine.get(name) for name in by] == [other.get(name) for name in by]
        assert close(mine[value], other[value]), (mine, other)
        if "probability" in other:
            assert close(mine["probability"], other["probability"])
        best.setdefault(tuple(mine.get(name) for name in by), []).append((mine, other))
    for pairs in best.values():
        last = pairs[-1][1][value]
        scores = {other["item"]: other[value] for _, other in pairs}
        for mine, other in pairs:  # another item only where it has the same score
            if mine["item"] != other["item"]:
                assert close(scores.get(mine["item"], last), mine[value]), (mine, other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"users": "u3", "k": 5},
        {"users": ["u7", "u3", "u7"], "k": 1},
        {"users": "u3", "k": 100},
        {"users": ["u1", "u2"], "filter_seen": False},
        {"users": ["u1", "u2"], "filter_seen": "train"},
        {"users": ["u1", "u2"], "items": [f"i{j:02d}" for j in range(0, 60, 3)]},
        {"users": ["u1", "u2"], "items": "i05", "filter_seen": False},
        {"users": ["u1", "u2"], "exclude": ["i01", "i02", "no such"]},
        {"items": {"u1": ["i01", "i02", "i03"], "u5": ["i04"], "nobody": ["i01"]}, "filter_seen": False},
        {"users": ["u1", "u2"], "exclude": {"u1": ["i05", "i09"], "u9": "i01"}},
        {"users": ["u1", "nobody"], "unknown": "default"},
        {"users": "nobody"},
        {"users": [7]},
        {"users": [None]},
        {"users": "u1", "items": ["no such"]},
        {"users": "u1", "items": []},
        {"users": "u1", "k": 0},
        {"users": "u1", "filter_seen": "valid"},
    ],
    ids=str,
)
def test_lists_are_those_of_the_recommender(any_of, options):
    rec, light = any_of
    (expected, said), (found, also) = (told(one.recommend, **options) for one in (rec, light))
    assert said == also
    if isinstance(expected, type):
        assert found is expected
    else:
        agree(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"novelty_weight": 0.7},
        {"novelty_weight": -0.5, "items": [f"i{j:02d}" for j in range(30)]},
        {"half_life": 100.0},
        {"half_life": "3D", "freshness_weight": 2.0, "novelty_weight": 0.2},
        {"freshness_weight": 2.0},
        {"diversity": 0.4},
        {"diversity": 0.4, "pool": 15, "k": 5, "novelty_weight": 0.1},
        {"diversity": 2.0},
    ],
    ids=str,
)
def test_lists_that_lean(both, options):
    rec, light = both
    options = {"users": ["u1", "u2", "u30" if rec.users.row("u30") else "u3"], **options}
    (expected, _), (found, _) = (told(one.recommend, **options) for one in (rec, light))
    if isinstance(expected, type):
        assert found is expected
        return
    mine, other = pd.DataFrame(found), expected
    if "diversity" in options and rec.model.by_fit:  # equal scores stand in another order
        both_have = len(mine.merge(other, on=["user", "item"]))
        assert both_have >= 0.8 * len(other)
        return
    assert mine["item"].tolist() == other["item"].tolist() or "half_life" in options or rec.model.by_fit
    order = ["user", "score"]
    assert np.allclose(mine.sort_values(order)["score"], other.sort_values(order)["score"], atol=1e-4)


def test_a_history_is_answered_by_the_same_fold_in(both):
    rec, light = both
    rated = rec.data.rated and "history" not in rec.model.needs
    histories = [
        HISTORY,
        HISTORY[:1],
        [*HISTORY, "no such", HISTORY[0]],
        [f"i{j:02d}" for j in range(40)],
        [],
        ["none"],
    ]
    if rated:
        histories = [dict(zip(one, (5.0, 4.0, 1.0, 3.5, 2.0) * 9, strict=False)) for one in histories]
        histories += [{HISTORY[0]: 9.0}, {HISTORY[0]: "good"}, {HISTORY[0]: None, HISTORY[1]: 4}, HISTORY]
    elif rec.data.train.confidence is not None:
        histories += [{HISTORY[0]: 3, HISTORY[1]: 1, HISTORY[2]: 0}, {HISTORY[0]: 3, HISTORY[1]: None}]
    else:
        histories += [{HISTORY[0]: 3}, HISTORY[0]]
    for history in histories:
        for more in ({}, {"filter_seen": False, "k": 4}, {"exclude": ["i00"]}):
            (expected, said), (found, also) = (told(one.recommend, history=history, **more) for one in (rec, light))
            assert said == also, history
            if isinstance(expected, type):
                assert found is expected, history
            else:
                agree(found, expected, by=())


def test_reasons(both):
    rec, light = both
    history = dict.fromkeys(HISTORY, 4.0) if rec.data.rated else HISTORY
    for options in ({"users": ["u3", "u8"]}, {"history": history}):
        for why in (True, 3):
            expected, found = (one.recommend(k=4, why=why, **options) for one in (rec, light))
            by = ("user",) if "users" in options else ()
            agree(found, expected, by=by)
            same = [mine["because"] == other["because"] for mine, other in zip(found, rows_of(expected), strict=True)]
            assert np.mean(same) > 0.5  # shares may be equal
            for mine in found:
                whose = {"user": mine["user"]} if "users" in options else {"history": options["history"]}
                table, rows = rec.why(item=mine["item"], **whose), light.why(item=mine["item"], **whose)
                assert list(rows[0]) == list(table)
                assert np.allclose(
                    [row["share"] for row in rows], table["share"], atol=5e-4 * max(1, table["share"].abs().max())
                )
                ranks = {None: 0, **{row["item"]: row["share"] for row in rows}}
                for item, part, share in table.itertuples(index=False):
                    assert part != "history" or close(ranks[item], share, 5e-4)


def test_predictions(any_of):
    rec, light = any_of
    users, items = [f"u{j}" for j in range(20)], [f"i{j:02d}" for j in range(20)]
    assert close(light.predict("u3", "i07"), rec.predict("u3", "i07"))
    assert np.allclose(light.predict(users, items), rec.predict(users, items), rtol=1e-5, atol=1e-5)
    assert np.allclose(light.predict("u3", items), rec.predict("u3", items), rtol=1e-5, atol=1e-5)
    given = {"unknown": "default"}
    assert np.allclose(
        light.predict("who", ["what", "i01"], **given), rec.predict("who", ["what", "i01"], **given), atol=1e-5
    )
    for args, more in ((("who", "i01"), {}), ((users, items[:3]), {}), (("u3", "i01"), {"interval": 0.9})):
        (expected, _), (found, _) = (told(one.predict, *args, **more) for one in (rec, light))
        assert found is expected if isinstance(expected, type) else np.allclose(found, expected, atol=1e-5)


def test_similar_items(any_of):
    rec, light = any_of
    for args in (("i03",), (["i03", "i09"], 4), ("i03", 500), ("none",), ("i03", 0)):
        (expected, said), (found, also) = (told(one.similar_items, *args) for one in (rec, light))
        assert said == also
        if isinstance(expected, type):
            assert found is expected
        else:
            agree(found, expected, by=("similar_to_item",), value="similarity")


def test_default_lists_histories_and_questions(any_of):
    rec, light = any_of
    agree(light.default_list(7), rec.default_list(7), by=())
    agree(light.default_list(3, exclude=["i01"]), rec.default_list(3, exclude=["i01"]), by=())
    for user in ("u3", "u9"):
        assert light.history(user) == rows_of(rec.history(user))
    for options in ({}, {"by": "popularity", "n": 4}, {"items": HISTORY, "n": 3}, {"n": 5000}, {"by": "luck"}):
        (expected, _), (found, _) = (told(one.questionnaire, **options) for one in (rec, light))
        if isinstance(expected, type) or isinstance(found, type):
            assert found is expected or (found is NotImplementedError and rec.model.has_vectors)
            continue
        assert [list(row) for row in found] == [list(expected)] * len(expected)
        assert [row["item"] for row in found] == expected["item"].tolist()
        numbers = expected.columns[1:]
        assert np.allclose([[row[name] for name in numbers] for row in found], expected[numbers], rtol=1e-4)
