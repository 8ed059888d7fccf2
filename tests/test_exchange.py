"""What goes to other tools and comes from them: vectors, matrices, runs and judgements, factors, the Hub."""

import inspect
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import implicit.als
import numpy as np
import pandas as pd
import pytest
import pytrec_eval
import scipy.sparse
from contract import planted
from helpers import silence

from collabkit import (
    EASE,
    BundleError,
    CollabDataLoaders,
    CollabWarning,
    FactorizationMachine,
    Recommender,
    SASRec,
    TwoTower,
    collab_learner,
    splits,
)

NAMES = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "bs": 64}
MODELS = {
    "dot": {"n_factors": 6},
    "bpr, without user biases": {"n_factors": 6, "loss_func": "bpr"},
    "two towers": {"model": TwoTower, "n_factors": 6},
    "machine": {"model": FactorizationMachine, "n_factors": 6},
    "sequence": {"model": SASRec, "n_factors": 8},
    "rated": {"n_factors": 6, "y_range": (0.5, 5.5)},
}


def trained(kind: str = "dot"):
    rated = kind == "rated"
    feedback = {"rating_name": "rating"} if rated else {"feedback": "implicit"}
    feedback |= {"history": 6} if kind == "sequence" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = CollabDataLoaders.from_df(planted(rated), splitter=splits.leave_last_out(2), **feedback, **NAMES)
    learn = silence(collab_learner(dls, **MODELS[kind]))
    learn.fit_one_cycle(4, 2e-2)
    return learn


@pytest.fixture(scope="module")
def learn():
    return trained()


@pytest.mark.parametrize("kind", MODELS)
def test_products_of_vectors_are_the_scores(kind):
    learn = trained(kind)
    (users, P), (items, Q) = learn.vectors("users"), learn.vectors("items")
    assert P.dtype == Q.dtype == np.float32 and len(users) == len(P) == 120 and len(items) == len(Q) == 60
    assert learn.vectors()[0].equals(items)
    table = learn.recommend(["u5", "u77"], k=4)
    logits = P[users.get_indexer(table["user"])] * Q[items.get_indexer(table["item"])]
    logits = logits.sum(1)
    wanted = 0.5 + 5 / (1 + np.exp(-logits)) if kind == "rated" else logits
    assert np.allclose(table["score"], wanted, atol=1e-4)
    best = items[np.argsort(-(P[users.get_loc("u5")] @ Q.T))[:10]]
    assert best.tolist() == learn.recommend("u5", k=10, filter_seen=False)["item"].tolist()


def test_models_without_vectors_say_so(learn):
    network = silence(collab_learner(learn.dls, use_nn=True))
    network.fit(1)
    for recommender in (network.recommender, EASE().fit(learn.dls).recommender):
        with pytest.raises(TypeError, match="are not dot products"):
            recommender.vectors("items")
    with pytest.raises(ValueError, match="must be 'items' or 'users'"):
        learn.vectors("item")


def test_events_as_a_matrix(learn):
    matrix, users, items = learn.recommender.to_scipy()
    table = planted()
    assert matrix.format == "csr" and matrix.shape == (120, 60) and matrix.dtype == np.float32
    at = users.get_indexer(table["user"]), items.get_indexer(table["item"])
    assert (matrix[at] == 1).all() and matrix.nnz == len(table)
    parts = [learn.recommender.to_scipy(part)[0] for part in ("train", "valid")]
    assert (sum(parts) != matrix).nnz == 0 and parts[1].nnz == 240
    with pytest.raises(ValueError, match="part must be"):
        learn.recommender.to_scipy("test")


def test_ratings_and_counts_as_a_matrix():
    table = pd.DataFrame({"user": list("aaab"), "item": list("xxyx"), "rating": [1.0, 4.0, 0.0, 5.0]})
    table["time"] = [5, 3, 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        dls = CollabDataLoaders.from_df(table, rating_name="rating", valid_pct=0, **NAMES)
        counted = CollabDataLoaders.from_df(table, feedback="implicit", history=3, valid_pct=0, **NAMES)
    matrix = Recommender(collab_learner(dls).model, dls.data).to_scipy()[0]
    assert matrix.toarray().tolist() == [[1, 0], [5, 0]] and matrix.nnz == 3  # the last in time; a zero is a rating
    assert Recommender(collab_learner(dls).model, counted.data).to_scipy()[0].toarray().tolist() == [[2, 1], [1, 0]]


def ndcg(qrels: dict, run: dict, k: int) -> float:
    """The mean over users of NDCG with binary gains, as trec_eval has it."""
    values = []
    for user, relevant in qrels.items():
        order = sorted(run[user], key=run[user].get, reverse=True)[:k]
        gain = sum(1 / np.log2(place + 2) for place, item in enumerate(order) if item in relevant)
        values.append(gain / sum(1 / np.log2(place + 2) for place in range(min(k, len(relevant)))))
    return float(np.mean(values))


@pytest.mark.parametrize("kind", ["dot", "sequence", "rated"])
def test_a_run_and_judgements_give_the_figures_of_evaluate(kind):
    rec = trained(kind).recommender
    run, qrels = rec.to_run(k=10), rec.to_qrels()
    assert ndcg(qrels, run, 10) == pytest.approx(rec.evaluate(metrics=["NDCG"])["value"].iloc[0], abs=1e-6)
    assert all(isinstance(score, float) for one in run.values() for score in one.values())
    assert {len(one) for one in run.values()} == {10} and set(qrels) == set(run)
    test = planted(kind == "rated")[::7].assign(item="i59")
    test = test.drop_duplicates(["user", "item"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        value = rec.evaluate(on=test, metrics=["NDCG"], threshold=1.0 if kind == "rated" else None)["value"].iloc[0]
        options = {"on": test, "threshold": 1.0 if kind == "rated" else None}
        run, qrels = rec.to_run(k=10, **options), rec.to_qrels(**options)
    assert ndcg(qrels, run, 10) == pytest.approx(value, abs=1e-6)


def test_peers_read_them(learn):
    rec = learn.recommender
    judge = pytrec_eval.RelevanceEvaluator(rec.to_qrels(), {"ndcg_cut.10"})  # what ir_measures calls too
    found = [row["ndcg_cut_10"] for row in judge.evaluate(rec.to_run(k=10)).values()]
    assert np.mean(found) == pytest.approx(rec.evaluate(metrics=["NDCG"])["value"].iloc[0], abs=1e-6)


def test_a_run_of_all_users_and_texts_for_numbers(learn):
    run = learn.recommender.to_run(k=3, on=None)
    lists = learn.recommend(k=3)
    assert len(run) == 120 and list(run["u7"]) == lists["item"][lists["user"] == "u7"].tolist()
    table = planted().assign(user=lambda df: df["user"].str[1:].astype(int))
    model = EASE().fit(CollabDataLoaders.from_df(table, feedback="implicit", **NAMES))
    assert {type(user) for user in model.recommender.to_run(k=2)} == {str}
    alone = EASE().fit(CollabDataLoaders.from_df(table, feedback="implicit", valid_pct=0, **NAMES)).recommender
    with pytest.raises(ValueError, match="no validation part"):
        alone.to_run()


class FakeHub:
    """What of huggingface_hub is called, with a folder in the place of the Hub."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, []

    def HfApi(self, token=None):
        self.token = token
        return self

    def create_repo(self, repo_id, private, exist_ok):
        self.calls.append(("create", repo_id, private, exist_ok))
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://hub/{repo_id}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, commit_message))
        for file in Path(folder_path).iterdir():
            (self.folder / repo_id / file.name).write_bytes(file.read_bytes())

    def snapshot_download(self, repo_id, revision, token, allow_patterns):
        """As the Hub's cache: links to files that lie elsewhere, of those that are wanted."""
        place = self.folder / "cache" / repo_id.replace("/", "--") / (revision or "main")
        place.mkdir(parents=True, exist_ok=True)
        for file in (self.folder / repo_id).iterdir():
            if file.name in allow_patterns and not (place / file.name).exists():
                (place / file.name).symlink_to(file)
        return str(place)


def test_to_the_hub_and_back(learn, tmp_path, monkeypatch):
    hub = FakeHub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    rec = learn.recommender
    assert rec.to_hub("me/films", token="secret") == "https://hub/me/films"
    assert hub.calls[0] == ("create", "me/films", True, True) and hub.token == "secret"
    card = (tmp_path / "me" / "films" / "README.md").read_text()
    assert "library_name: collabkit" in card and "from_hub('me/films')" in card
    assert Recommender.from_hub("me/films").recommend("u3", k=5).equals(rec.recommend("u3", k=5))
    (tmp_path / "me" / "films" / "users.parquet").write_bytes(b"other")
    with pytest.raises(BundleError, match="damaged"):
        Recommender.from_hub("me/films", revision="broken")


def test_the_hubs_own_package_is_called_as_it_is():
    hub = huggingface_hub
    upload = inspect.signature(hub.HfApi.upload_folder).parameters
    assert {"repo_id", "folder_path", "commit_message"} <= set(upload)
    assert {"private", "exist_ok"} <= set(inspect.signature(hub.HfApi.create_repo).parameters)
    assert {"revision", "token", "allow_patterns"} <= set(inspect.signature(hub.snapshot_download).parameters)


def test_without_the_package_it_is_said_what_to_install(learn, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'collabkit\[hub\]'"):
        learn.recommender.to_hub("me/films")
    with pytest.raises(ImportError, match=r"collabkit\[hub\]"):
        Recommender.from_hub("me/films")


def events() -> tuple[pd.Index, pd.Index, scipy.sparse.csr_array]:
    table = planted()
    users, items = pd.Index(table["user"].unique(), name="user"), pd.Index(table["item"].unique(), name="item")
    at = users.get_indexer(table["user"]), items.get_indexer(table["item"])
    return users, items, scipy.sparse.coo_array((np.ones(len(table)), at), shape=(120, 60)).tocsr()


def factors(seed: int = 0, d: int = 5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(120, d)).astype(np.float32), rng.normal(size=(60, d)).astype(np.float32)


class OnGPU:
    """As implicit's own matrices of the GPU."""

    def __init__(self, array):
        self.array = array

    def to_numpy(self):
        return self.array


@pytest.mark.parametrize("kind", ["arrays", "gpu"])
@pytest.mark.parametrize("known", ["matrix", "coo", "frame", "nothing"])
def test_weights_of_implicit(kind, known, tmp_path):
    (users, items, matrix), (P, Q) = events(), factors()
    wrap = np.asarray if kind == "arrays" else OnGPU
    given = {"matrix": matrix, "coo": matrix.tocoo(), "frame": planted(), "nothing": None}[known]
    rec = Recommender.from_implicit(SimpleNamespace(user_factors=wrap(P), item_factors=wrap(Q)), users, items, given)
    found = rec.predict(np.repeat(users, 60), np.tile(items, 120)).reshape(120, 60)
    assert np.allclose(found, P @ Q.T, atol=1e-5)
    seen = matrix.toarray()[3] > 0
    order = np.argsort(-(P[3] @ Q.T) + (1e9 * seen if known != "nothing" else 0))[:5]
    assert rec.recommend(users[3], k=5)["item"].tolist() == items[order].tolist()
    assert len(rec.default_list(3)) == 3
    if known == "nothing":
        with pytest.raises(ValueError, match="none: give events="):
            rec.save(tmp_path / "artefact")
        return
    again = Recommender.load(rec.save(tmp_path / "artefact"))
    assert again.recommend(users[:4], k=5).equals(rec.recommend(users[:4], k=5))
    assert len(again.recommend(history=items[:3].tolist(), k=4)) == 4


def test_a_model_of_implicit_itself():
    users, items, matrix = events()
    model = implicit.als.AlternatingLeastSquares(factors=8, iterations=3, random_state=0, use_gpu=False)
    model.fit(scipy.sparse.csr_matrix(matrix), show_progress=False)
    rec = Recommender.from_implicit(model, users, items, matrix)
    theirs, scores = model.recommend(np.arange(10), scipy.sparse.csr_matrix(matrix)[:10], N=5)
    ours = rec.recommend(users[:10], k=5)
    assert ours["item"].tolist() == items[theirs.ravel()].tolist()
    assert np.allclose(ours["score"], scores.ravel(), atol=1e-5)


class LightFM:
    """What of a fitted LightFM model is read."""

    def __init__(self):
        (self.u, self.i), rng = factors(3), np.random.default_rng(4)
        self.bu, self.bi = rng.normal(size=120).astype(np.float32), rng.normal(size=60).astype(np.float32)

    def get_user_representations(self, features=None):
        return (self.bu, self.u) if features is None else (features @ self.bu, features @ self.u)

    def get_item_representations(self, features=None):
        return (self.bi, self.i) if features is None else (features @ self.bi, features @ self.i)


@pytest.mark.parametrize("with_features", [False, True])
def test_weights_of_lightfm(with_features):
    model, (users, items, matrix) = LightFM(), events()
    features = scipy.sparse.random_array((60, 60), density=0.1, rng=np.random.default_rng(0)).tocsr()
    options = {"item_features": features} if with_features else {}
    rec = Recommender.from_lightfm(model, users, items, matrix, **options)
    (bu, u), (bi, i) = model.get_user_representations(), model.get_item_representations(*options.values())
    scores = u @ i.T + bu[:, None] + bi
    assert np.allclose(rec.predict(np.repeat(users, 60), np.tile(items, 120)).reshape(120, 60), scores, atol=1e-4)
    matrix = rec.vectors("items")[1]
    assert np.allclose(rec.vectors("users")[1] @ matrix.T, scores, atol=1e-4)


def test_weights_that_do_not_fit_are_refused():
    (users, items, matrix), (P, Q) = events(), factors()
    model = SimpleNamespace(user_factors=P, item_factors=Q)
    for change, error, message in (
        ({"user_ids": users[:-1]}, ValueError, "119 user ids for user factors of shape .120, 5."),
        ({"item_ids": [*items, "more"]}, ValueError, "61 item ids"),
        ({"events": matrix.T}, ValueError, r"matrix \(60, 120\)"),
        ({"events": [(0, 1)]}, TypeError, "a DataFrame .*or a scipy matrix"),
        ({"user_ids": ["u1"] * 120}, ValueError, "unique"),
        ({"model": SimpleNamespace(user_factors=P)}, TypeError, "no user_factors and item_factors"),
        ({"model": SimpleNamespace(user_factors=P, item_factors=Q[:, :3])}, ValueError, "5 factors and items 3"),
        ({"model": SimpleNamespace(user_factors=P * np.nan, item_factors=Q)}, ValueError, "NaN or infinite"),
    ):
        given = {"model": model, "user_ids": users, "item_ids": items, "events": matrix} | change
        with pytest.raises(error, match=message):
            Recommender.from_implicit(**given)
    with pytest.raises(TypeError, match="LightFM"):
        Recommender.from_lightfm(model, users, items)


def test_entries_of_zero_and_twice_are_no_events():
    (users, items, _), (P, Q) = events(), factors()
    matrix = scipy.sparse.coo_array(([1.0, 0.0, 1.0, 1.0], ([0, 0, 1, 1], [0, 1, 2, 2])), shape=(120, 60))
    with pytest.warns(CollabWarning, match="1 of 4 stored entries of the matrix are 0"):
        rec = Recommender.from_implicit(SimpleNamespace(user_factors=P, item_factors=Q), users, items, matrix)
    assert len(rec.train) == 2
