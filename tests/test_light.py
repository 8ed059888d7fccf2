"""The light runtime answers what `Recommender` answers, for every model and every option, without torch or pandas."""

import datetime
import decimal
import json
import shutil
import subprocess
import sys
import threading
import uuid
import warnings

import numpy as np
import pandas as pd
import pytest
from contract import N_GROUPS, planted

from collabkit import (
    EASE,
    GMF,
    BundleError,
    CollabDataLoaders,
    CollabWarning,
    CollFilter,
    ContentKNN,
    FactorizationMachine,
    GRURec,
    HybridKNN,
    Implicit,
    ItemKNN,
    NeuMF,
    NextItem,
    Pipeline,
    Popularity,
    Recommender,
    SASRec,
    TwoTower,
    YouTubeNet,
    collab_learner,
    load_learner,
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
    options = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "bs": 256}
    return CollabDataLoaders.from_df(table, **{**options, **feedback, "splitter": splits.leave_last_out(), **kwargs})


def learner(model, rated=False, features=False, data=None, **options):
    more = {"items": GENRES, "users": PEOPLE} if features else {}
    learn = collab_learner(dataloaders(rated, **more, **(data or {})), model=model, seed=1, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 5e-2)
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
    "neumf": lambda: learner(NeuMF, n_factors=6, layers=[8]),
    "neural ratings": lambda: learner(None, rated=True, y_range=(0.5, 5.5), use_nn=True, layers=[8]),
    "sasrec with its network": lambda: learner(SASRec, n_factors=8, data={"history": 20}),
    "gru with its network": lambda: learner(GRURec, n_factors=8, data={"history": 20}),
    "youtube with its network": lambda: learner(YouTubeNet, n_factors=8, layers=[8], data={"history": 20}),
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
            rec.save(folder, onnx="network" in name or name.startswith("neu"))
            found[name] = Recommender.load(folder), Light.load(folder), folder
        return found[name]

    return make


READ = [
    *MODELS,
    "sasrec with its network",
    "gru with its network",
    "youtube with its network",
]  # of which histories are answered


@pytest.fixture(params=READ)
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


OPTIONS = [
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
]


def test_lists_are_those_of_the_recommender(any_of):
    rec, light = any_of
    for options in OPTIONS:
        (expected, said), (found, also) = (told(one.recommend, **options) for one in (rec, light))
        assert said == also, options
        if isinstance(expected, type):
            assert found is expected, options
        else:
            agree(found, expected)


LEAN = [
    {"novelty_weight": 0.7},
    {"novelty_weight": -0.5, "items": [f"i{j:02d}" for j in range(30)]},
    {"half_life": 100.0},
    {"half_life": "3D", "freshness_weight": 2.0, "novelty_weight": 0.2},
    {"freshness_weight": 2.0},
    {"diversity": 0.4},
    {"diversity": 0.4, "pool": 15, "k": 5, "novelty_weight": 0.1},
    {"diversity": 2.0},
]


def test_lists_that_lean(both):
    rec, light = both
    for options in LEAN:
        options = {"users": ["u1", "u2", "u3"], **options}
        (expected, _), (found, _) = (told(one.recommend, **options) for one in (rec, light))
        if isinstance(expected, type):
            assert found is expected, options
            continue
        if rec.model.by_fit and "diversity" in options:  # equal scores stand in another order, and so on from there
            assert len(pd.DataFrame(found).merge(expected, on=["user", "item"])) >= 0.8 * len(expected), options
            continue
        if not rec.model.by_fit:
            assert [row["item"] for row in found] == expected["item"].tolist(), options
        order = ["user", "score"]
        assert np.allclose(*(pd.DataFrame(one).sort_values(order)["score"] for one in (found, expected)), atol=1e-4)


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
        histories += [
            {HISTORY[0]: 9.0},
            {HISTORY[0]: 1e300},
            {HISTORY[0]: -(10**400)},
            {HISTORY[0]: "good"},
            {HISTORY[0]: None, HISTORY[1]: 4},
            HISTORY,
        ]
    elif rec.data.train.confidence is not None:
        histories += [{HISTORY[0]: 1e39}, {HISTORY[0]: float("inf")}]
        histories += [{HISTORY[0]: 3, HISTORY[1]: 1, HISTORY[2]: 0}, {HISTORY[0]: 3, HISTORY[1]: None}]
    else:
        histories += [{HISTORY[0]: 3}, HISTORY[0]]
    for j, history in enumerate(histories):
        for more in ({}, {"filter_seen": False, "k": 4}, {"exclude": ["i00"]})[: 1 if j else None]:
            (expected, said), (found, also) = (told(one.recommend, history=history, **more) for one in (rec, light))
            assert said == also, history
            if isinstance(expected, type):
                assert found is expected, history
            else:
                agree(found, expected, by=())


def test_reasons(both):
    rec, light = both
    history = dict.fromkeys(HISTORY, 4.0) if rec.data.rated else HISTORY
    for options in ({"users": ["u3"]}, {"history": history}):
        for why in (True, 3):
            expected, found = (one.recommend(k=2, why=why, **options) for one in (rec, light))
            by = ("user",) if "users" in options else ()
            agree(found, expected, by=by)
            same = [mine["because"] == other["because"] for mine, other in zip(found, rows_of(expected), strict=True)]
            assert np.mean(same) > 0.5  # shares may be equal
            for mine in found if why is True else ():
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
            assert found is expected or (found is NotImplementedError and not rec.model.by_fit)
            continue
        assert [list(row) for row in found] == [list(expected)] * len(expected)
        assert [row["item"] for row in found] == expected["item"].tolist()
        numbers = expected.columns[1:]
        assert np.allclose([[row[name] for name in numbers] for row in found], expected[numbers], rtol=1e-4)


# --- what it costs, and what it refuses ------------------------------------------------------------------------------

HEAVY = {"torch", "pandas", "fastai", "fastcore", "scipy", "sklearn", "pyarrow", "matplotlib", "narwhals"}


@pytest.mark.parametrize("name", ["dot", "ratings", "ease", "item knn"])
def test_nothing_heavy_is_imported(name, made):
    folder = made(name)[2]
    history = {"i01": 4.0, "i05": 5.0} if name == "ratings" else ["i01", "i05"]
    code = f"""
import sys
from collabkit.serve.light import Light
light = Light.load({str(folder)!r})
with light.noting() as notes:
    light.recommend("u1", k=3, why=True, diversity=0.2, novelty_weight=0.1, half_life=3)
    light.recommend(history={{**{history!r}, "none": 3.0}} if isinstance({history!r}, dict) else [*{history!r}, "none"])
    light.recommend(k=2), light.similar_items("i01"), light.default_list(), light.history("u1")
    light.predict("u1", ["i01", "i02"]), light.why("u1", "i03"), light.why(history={history!r}, item="i03")
assert any("does not know" in note for note in notes), notes
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert not HEAVY & set(run.stdout.split())


def test_networks_are_refused_in_words(made, tmp_path):
    first, second = made("dot")[0], learner(NeuMF, n_factors=4, layers=[8])
    second.save(tmp_path / "network")
    with pytest.raises(
        BundleError, match=r"network of NeuMF, .* load it with Recommender.load and save it with onnx=True"
    ):
        Light.load(tmp_path / "network")
    Pipeline(first, first).recommender.save(tmp_path / "pipeline")
    with pytest.raises(BundleError, match="the scores of Pipeline"):
        Light.load(tmp_path / "pipeline")
    for name in set(NETWORKS) - set(READ):
        light = made(name)[1]
        with pytest.raises(NotImplementedError, match="use Recommender"):
            light.recommend(history=["i01"])
        with pytest.raises(NotImplementedError, match="use Recommender"):
            light.why("u1", "i01")
    light = made("dot")[1]
    for options in ({"context": {"hour": 3}}, {"recent": [1]}, {"diversity": 0.3, "diversify_by": "genre"}):
        with pytest.raises(NotImplementedError, match="use Recommender"):
            light.recommend("u1", **options)
    with pytest.raises(ValueError, match="is for new users"):
        light.recommend("u1", history=["i01"])


def test_artefacts_without_its_files_and_damaged_ones(made, tmp_path):
    rec, _, folder = made("dot")
    rec.save(tmp_path / "plain", light=False)
    assert not (tmp_path / "plain" / "light.safetensors").exists()
    with pytest.raises(BundleError, match="load it with Recommender.load and save it again"):
        Light.load(tmp_path / "plain")
    assert Recommender.load(tmp_path / "plain").recommend("u1").equals(rec.recommend("u1"))
    with pytest.raises(FileNotFoundError):
        Light.load(tmp_path / "nowhere")
    for damage in ("flip", "cut", "gone"):
        broken = shutil.copytree(folder, tmp_path / damage)
        file = broken / "light.safetensors"
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(raw if damage == "flip" else raw[:-9])
        for cls in (Light, Recommender):
            with pytest.raises(BundleError, match=r"light\.safetensors (does not match|is missing)"):
                cls.load(broken)


def test_the_prior_is_in_the_artefact(made, monkeypatch):
    for name in ("dot", "ratings", "ratings with features", "als"):
        rec, _, folder = made(name)
        history = dict.fromkeys(HISTORY, 4.0) if rec.data.rated else HISTORY
        fresh = Recommender.load(folder)
        for module in ("events.EventSolver", "ratings.RatingSolver"):
            monkeypatch.setattr(f"collabkit.coldstart.fold_in.{module}.__init__", lambda *_, **__: 1 / 0)
        stored = fresh.recommend(history=history, why=True)
        assert load_learner(folder).recommend(history=history, why=True).equals(stored)
        monkeypatch.undo()
        fresh._kept.clear()
        assert fresh.recommend(history=history, why=True).equals(stored)  # fitted anew


def test_any_number_of_threads_ask_one(made):
    light, errors = made("als")[1], []
    expected = {user: light.recommend(user) for user in (f"u{j}" for j in range(30))}

    def ask(users):
        for user in users:
            with light.noting() as notes:
                found = light.recommend(user), light.recommend(user, k=200)
            if found[0] != expected[user] or len(notes) != 1:
                errors.append(user)

    threads = [threading.Thread(target=ask, args=([f"u{(7 * j + i) % 30}" for j in range(30)],)) for i in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []


def test_a_folder_that_is_replaced_while_it_is_asked(made, tmp_path):
    folder = made("als")[2]
    mine = shutil.copytree(folder, tmp_path / "mine")
    light = Light.load(mine)
    before = light.recommend("u5")
    made("dot")[0].save(mine)
    assert light.recommend("u5") == before != Light.load(mine).recommend("u5")


def test_facts_and_popularity(made):
    rec, light, _ = made("towers")
    assert light.facts("i03") == {"genre": ["odd"], "year": pytest.approx(1953.0, abs=1e-3)}
    assert set(light.facts("i44")["genre"]) == {"even", "big"}
    assert light.popularity().tolist() == rec.train.counts("item").tolist()
    assert made("dot")[1].facts("i03") == {}


IDS = {
    "int": [7, 3, 2**40, -5],
    "text": ["b", "a", "ä€ 😀", ""],
    "uuid": [uuid.UUID(int=j) for j in (9, 3, 2**90, 4)],
    "float": [0.5, 2.0, -1.25, 1e10],
    "bool": [True, False],
    "date": [datetime.date(2020, 1, j) for j in (3, 1, 2, 9)],
    "timestamp": [pd.Timestamp(f"2020-01-0{j} 10:00:00.5") for j in (3, 1, 2, 9)],
    "zone": [pd.Timestamp(f"2020-01-0{j}", tz="Europe/Berlin") for j in (3, 1, 2, 9)],
    "timedelta": [pd.Timedelta(minutes=j) for j in (3, 1, 2, 9)],
    "decimal": [decimal.Decimal(one) for one in ("1.50", "1.5e3", "-2", "0.1")],
    "bytes": [b"b", b"a", b"\xff\x00", b""],
    "uint64": np.array([2**63 + 9, 1, 2, 3], dtype=np.uint64),
    "category": pd.Categorical(["x", "y", "z", "x"]),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_every_kind(kind, tmp_path):
    ids = pd.Series(IDS[kind])
    table = pd.DataFrame(
        {"user": np.repeat(ids.to_numpy() if ids.dtype == object else ids.array, 1 if kind == "bool" else 2)}
    )
    table["item"] = ids.iloc[[j % len(ids) for j in range(1, len(table) + 1)]].array
    table = table.drop_duplicates(ignore_index=True)
    names = {"user_name": "user", "item_name": "item", "feedback": "implicit"}
    rec = ItemKNN(3).fit(CollabDataLoaders.from_df(table, valid_pct=0, **names)).recommender
    rec.save(tmp_path / "model")
    light, known = Light.load(tmp_path / "model"), rec.users.ids.tolist()
    assert list(light.users) == known and list(light.items) == rec.items.ids.tolist()
    assert light.users.encode(known).tolist() == list(range(1, len(known) + 1)) and known[0] in light.users
    for user in known:
        agree(light.recommend(user, filter_seen=False), rec.recommend(user, filter_seen=False))
    assert light.recommend(history=[known[0]], k=1)[0]["item"] in known
    other = 5 if kind not in ("int", "float", "uint64") else "five"
    for one in (rec, light):
        with pytest.raises(TypeError, match="ids are of type"):
            one.recommend(other)
    with pytest.raises(ValueError, match="missing"):
        light.recommend([known[0], float("nan")])


def test_an_artefact_of_an_older_format(made, tmp_path):
    """Format 5 had no file for the light runtime."""
    from collabkit.serve.artefact import _config_digest

    rec, _, _ = made("als")
    rec.save(tmp_path / "old", light=False)
    file = tmp_path / "old" / "config.json"
    config = json.loads(file.read_text())
    del config["light"]
    config["version"] = 5
    config["sha256"]["config.json"] = _config_digest(config)
    file.write_text(json.dumps(config))
    assert Recommender.load(tmp_path / "old").recommend("u1").equals(rec.recommend("u1"))
    with pytest.raises(BundleError, match="older version"):
        Light.load(tmp_path / "old")


def test_the_service_takes_it_where_it_answers_all(made):
    from collabkit.serve.web.answerer import answers_all

    for name in ("dot", "towers", "ease", "sasrec with its network", "youtube with its network"):
        assert answers_all(made(name)[1]), name
    for name in ("sasrec", "neumf"):  # whose histories torch answers
        assert not answers_all(made(name)[1]), name
