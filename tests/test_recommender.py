"""`Recommender`: recommendations, predictions, neighbours and evaluation against brute force, and their errors."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import KINDS, make_dls, make_learner, ratings, trained

from collabkit import CollabWarning, CollFilter, Interactions, Recommender
from collabkit.data.interactions import Columns
from collabkit.evaluate.references import UserItemBias
from collabkit.serve import recommender


@pytest.fixture(params=KINDS)
def rec(request):
    return trained(request.param).recommender


def score_matrix(rec):
    """Predictions of every pair of known ids, one by one through `forward`."""
    pairs = torch.cartesian_prod(torch.arange(1, len(rec.users)), torch.arange(1, len(rec.items)))
    with torch.no_grad():
        scores = rec.model.eval()(pairs).view(len(rec.users) - 1, -1)
    return pd.DataFrame(scores.numpy(), index=list(rec.users.ids), columns=list(rec.items.ids))


def seen_pairs(rec, valid=True):
    parts = [rec.train, rec.valid] if valid else [rec.train]
    return pd.concat([part.to_df()[["user", "title"]] for part in parts])


def unseen_scores(rec, valid=True):
    scores = score_matrix(rec)
    for user, title in seen_pairs(rec, valid).itertuples(index=False):
        scores.loc[user, title] = -np.inf
    return scores


def check_list(got, scores, k):
    """`got` is the top `k` of the finite `scores` (a Series by title)."""
    best = scores[scores > -np.inf].sort_values(ascending=False)
    assert got["rank"].tolist() == list(range(1, min(k, len(best)) + 1))
    assert got["score"].to_numpy() == pytest.approx(best.to_numpy()[:k], abs=1e-5)
    assert got["score"].to_numpy() == pytest.approx(scores[got["title"]].to_numpy(), abs=1e-5)
    assert got["title"].is_unique


# --- recommend -------------------------------------------------------------------------------------------------------


def test_the_top_k_of_all_users_is_that_of_brute_force(rec):
    scores, table = unseen_scores(rec), rec.recommend(k=7)
    assert list(table.columns) == ["user", "title", "rank", "score"]
    assert list(table["user"].unique()) == list(rec.users.ids) and len(table) == 7 * len(scores)
    for user, got in table.groupby("user"):
        check_list(got, scores.loc[user], 7)


def test_nothing_seen_and_never_the_unknown_item(rec):
    table = _quietly(rec.recommend, k=len(rec.items))
    seen = set(seen_pairs(rec).itertuples(index=False, name=None))
    got = set(zip(table["user"], table["title"], strict=True))
    assert not got & seen
    assert len(got) + len(seen) == (len(rec.users) - 1) * (len(rec.items) - 1)  # all the others, once
    assert "#na#" not in set(table["title"])


def _quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        return function(*args, **kwargs)


def test_seen_items_on_request(rec):
    user = rec.users[5]
    check_list(rec.recommend(user, 140, filter_seen=False), score_matrix(rec).loc[user], 140)


def test_allow_list(rec):
    user, allowed = rec.users[3], [rec.items[j] for j in (9, 4, 60, 61, 62, 63, 64, 4)]
    got = _quietly(rec.recommend, user, 100, items=allowed)
    scores = unseen_scores(rec).loc[user]
    check_list(got, scores[sorted(set(allowed))], 100)
    seen = seen_pairs(rec)
    assert len(got) == len(set(allowed) - set(seen.loc[seen["user"] == user, "title"]))


def test_deny_list_of_items(rec):
    users = [rec.users[j] for j in (3, 8)]
    first = rec.recommend(users, 5)
    got = rec.recommend(users, 5, exclude=first["title"])
    assert not set(got["title"]) & set(first["title"])
    scores = unseen_scores(rec).drop(columns=first["title"].unique())
    for user in users:
        check_list(got[got["user"] == user], scores.loc[user], 5)
    one = rec.recommend(users[0], 3, exclude=first["title"].iloc[0])
    assert one["title"].tolist() == first["title"].tolist()[1:4]


@pytest.mark.parametrize("filter_seen", [True, False])
def test_deny_list_of_pairs(rec, filter_seen):
    users = [rec.users[j] for j in (3, 8, 9)]
    first = rec.recommend(users, 5, filter_seen=filter_seen)
    pairs = first[first["user"] != users[2]][["title", "user"]]  # any order of columns, others kept out
    got = rec.recommend(users, 5, filter_seen=filter_seen, exclude=pairs)
    scores = unseen_scores(rec) if filter_seen else score_matrix(rec)
    for user, title in pairs[["user", "title"]].itertuples(index=False):
        scores.loc[user, title] = -np.inf
    for user in users:
        check_list(got[got["user"] == user], scores.loc[user], 5)
    kept = [table[table["user"] == users[2]].reset_index(drop=True) for table in (first, got)]
    pd.testing.assert_frame_equal(*kept)


def test_allow_and_deny_lists_together(rec):
    titles = [rec.items[j] for j in range(1, 31)]
    got = rec.recommend(rec.users[1], 3, items=titles, exclude=titles[:15], filter_seen=False)
    check_list(got, score_matrix(rec).loc[rec.users[1], titles[15:]], 3)


def test_users_in_the_order_asked_also_twice(rec):
    users = [rec.users[j] for j in (8, 2, 8)]
    got = rec.recommend(users, 2)
    assert got["user"].tolist() == [users[0]] * 2 + [users[1]] * 2 + [users[2]] * 2
    assert got["title"].tolist()[:2] == got["title"].tolist()[4:]
    alone = rec.recommend(users[0], 2)
    pd.testing.assert_frame_equal(alone, rec.recommend(users[:1], 2))
    assert alone["title"].tolist() == got["title"].tolist()[:2]
    for ids in (np.array(users), pd.Series(users, index=[7, 7, 7]), pd.Index(users), tuple(users)):
        pd.testing.assert_frame_equal(rec.recommend(ids, 2), got)
    assert len(rec.recommend([], 2)) == 0


def test_fewer_items_than_k_are_counted(rec):
    user, titles = rec.users[4], [rec.items[j] for j in (1, 2, 3)]
    with pytest.warns(CollabWarning, match=r"fewer than k=5 items are left for 1 of 1 users.*\(at least 3\)"):
        got = rec.recommend(user, 5, items=titles, filter_seen=False)
    assert len(got) == 3 and set(got["title"]) == set(titles)


def seen_everything():
    """A user with rows for all six items, five in training and one in validation, and two others."""
    rows = [("all", f"item {j}", 1.0 + j % 5) for j in range(6)] + [("one", "item 2", 3.0), ("two", "item 3", 4.0)]
    df = pd.DataFrame(rows, columns=["user", "title", "rating"])
    parts = np.array([0, 1, 2, 3, 4, 6, 7]), np.array([5])
    return make_learner("dot", make_dls(df, splitter=lambda _: parts)).recommender


def test_a_user_who_has_seen_everything():
    rec = seen_everything()
    with pytest.warns(CollabWarning, match=r"fewer than k=2 items are left for 1 of 2 users.*\(at least 0\)"):
        got = rec.recommend(["all", "one"], 2)
    assert got["user"].tolist() == ["one", "one"]
    with pytest.warns(CollabWarning, match="fewer than k=2"):
        assert len(rec.recommend("all", 2)) == 0
    assert len(rec.recommend("all", 2, filter_seen=False)) == 2


def test_unknown_users(rec):
    with pytest.raises(KeyError, match=r"1 unknown 'user' id\(s\): 987654.*The model knows"):
        rec.recommend([rec.users[1], 987654])
    got = rec.recommend([987654, rec.users[1], 123456], 4, unknown="default")
    assert got["user"].tolist() == [987654] * 4 + [rec.users[1]] * 4 + [123456] * 4
    strangers = [
        got[got["user"] == user][["title", "rank", "score"]].reset_index(drop=True) for user in (987654, 123456)
    ]
    pd.testing.assert_frame_equal(*strangers)
    expected = rec.predict(987654, got["title"][:4], unknown="default")
    assert got["score"].to_numpy()[:4] == pytest.approx(expected, abs=1e-5)
    assert not strangers[0]["title"].equals(got[got["user"] == rec.users[1]]["title"].reset_index(drop=True))
    with pytest.raises(TypeError, match="convert them first"):
        rec.recommend(["a user by name"])
    with pytest.raises(ValueError, match="unknown must be 'raise' or 'default', got 'mean'"):
        rec.recommend([1], unknown="mean")


def test_ids_that_are_tuples():
    df = ratings()
    df["user"] = [("shop", int(user)) for user in df["user"]]
    learn, plain = make_learner("dot", make_dls(df)), make_learner("dot")
    one, several = ("shop", 69), [("shop", 69), ("shop", 3)]
    assert learn.recommend(one, 3)["user"].tolist() == [one] * 3
    assert learn.recommend(several, 1)["user"].tolist() == several
    assert learn.recommend(one, 3)["title"].tolist() == plain.recommend(69, 3)["title"].tolist()
    assert learn.predict(one, df["title"][0]) == pytest.approx(plain.predict(69, df["title"][0]))


@pytest.mark.parametrize("k", [0, -1, 2.5])
def test_k_is_checked(rec, k):
    for call in (
        rec.recommend,
        lambda k: rec.similar_items(rec.items[1], k),
        lambda k: rec.similar_users(rec.users[1], k),
    ):
        with pytest.raises(ValueError, match=f"k must be a whole number of at least 1, got {k}"):
            call(k=k)


@pytest.mark.filterwarnings("ignore:1 of 2 rows have 'user' ids")
def test_lists_of_unknown_or_no_items(rec):
    with pytest.raises(KeyError, match="no such film"):
        rec.recommend(items=["no such film"])
    with pytest.warns(CollabWarning, match="1 of 1 ids in exclude= are unknown to the model and left out"):
        assert rec.recommend(rec.users[1], exclude=["no such film"]).equals(rec.recommend(rec.users[1]))
    for lists in (
        {"items": []},
        {"exclude": list(rec.items.ids)},
        {"items": [rec.items[2]], "exclude": [rec.items[2]]},
    ):
        with pytest.raises(ValueError, match="no item is left to recommend; check items= and exclude="):
            rec.recommend(**lists)
    with pytest.raises(KeyError, match="not found"):
        rec.recommend(exclude=pd.DataFrame({"user": [1], "film": ["x"]}))
    pairs = pd.DataFrame({"user": [rec.users[1], 987654], "title": ["no such film", rec.items[1]]})
    with pytest.warns(CollabWarning, match="2 of 2 pairs in exclude= name unknown ids; they hide nothing"):
        assert len(rec.recommend(rec.users[1], 2, exclude=pairs)) == 2
    with pytest.warns(CollabWarning, match="pairs in exclude="):  # a stranger's pairs do not hide another's items
        other = rec.recommend(555, 3, unknown="default", exclude=pairs)
    assert other.equals(rec.recommend(555, 3, unknown="default"))
    assert len(rec.recommend(rec.users[1], 2, exclude=pairs.head(0))) == 2


# --- memory ----------------------------------------------------------------------------------------------------------


def test_blocks_under_a_memory_bound_give_the_same_answer(rec, monkeypatch):
    blocks = []

    class Watched(recommender.Asked):
        def __call__(self, users):
            logits = super().__call__(users)
            blocks.append(tuple(logits.shape))
            return logits

    monkeypatch.setattr(recommender, "Asked", Watched)
    users, n_items = rec.users.ids[:40], len(rec.items) - 1
    n_users = len(users)
    whole = rec.recommend(users, k=6)
    assert blocks == [(n_users, n_items)]
    for bound in (1000, "20KB", 100_000):
        blocks.clear()
        pd.testing.assert_frame_equal(rec.recommend(users, k=6, max_memory=bound), whole, rtol=1e-5)
        n_bytes = {"20KB": 20_000}.get(bound, bound)
        largest = max(rows for rows, _ in blocks)
        assert len(blocks) > 1 and sum(rows for rows, _ in blocks) == n_users
        assert largest == 1 or 4 * largest * n_items <= n_bytes / 3  # a score, its copy and the work space of topk
        assert len(blocks) == -(-n_users // largest)
    blocks.clear()
    rec.recommend(users, k=6, items=[rec.items[j] for j in range(1, 11)], filter_seen=False)
    assert blocks == [(n_users, 10)]  # items that are not allowed are not scored


def test_the_networks_inner_tensors_count_too(monkeypatch):
    rec, sizes = trained("nn").recommender, []
    original = type(rec.model).interact

    def interact(self, user_rows, item_rows):
        sizes.append(user_rows[0].shape[0] * item_rows[0].shape[1])
        return original(self, user_rows, item_rows)

    monkeypatch.setattr(type(rec.model), "interact", interact)
    rec.recommend(k=3, max_memory="500KB")
    width = sum(sum(side.row_widths) for side in rec.model.sides)
    assert len(sizes) > 1 and 4 * max(sizes) * width < 500_000


@pytest.mark.parametrize("bad", [0, -5, "much", "1 XB", ""])
def test_a_memory_bound_that_is_none(rec, bad):
    with pytest.raises(ValueError, match="max_memory must be a positive number of bytes"):
        rec.recommend(k=1, max_memory=bad)


# --- predict ---------------------------------------------------------------------------------------------------------


def test_predictions_are_the_models_and_the_learners(rec):
    kind = "dot" if isinstance(rec.model, CollFilter) else "nn"
    df = rec.valid.to_df()
    expected = rec.model.eval()(rec.valid.user_idx, rec.valid.item_idx).detach().numpy()
    got = rec.predict(df["user"], df["title"])
    assert got.dtype == np.float32 and got.shape == (len(df),) and got.std() > 0.2
    assert got == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(got, trained(kind).predict(df["user"], df["title"]))
    assert got == pytest.approx(trained(kind).get_preds()[0].numpy(), abs=1e-5)


def test_predict_takes_scalars_and_arrays(rec):
    user, titles = rec.users[3], [rec.items[j] for j in (5, 1, 9)]
    row = score_matrix(rec).loc[user, titles].to_numpy()
    assert rec.predict(user, titles) == pytest.approx(row, abs=1e-5)
    one = rec.predict(user, titles[0])
    assert isinstance(one, float) and one == pytest.approx(row[0], abs=1e-5)
    assert rec.predict([user], titles) == pytest.approx(row, abs=1e-5)
    column = score_matrix(rec).iloc[[4, 2]][titles[0]].to_numpy()
    assert rec.predict([rec.users[5], rec.users[3]], titles[0]) == pytest.approx(column, abs=1e-5)
    assert rec.predict([user], [titles[0]]).shape == (1,)
    assert rec.predict([], []).shape == (0,)


def test_predict_checks_its_ids(rec):
    with pytest.raises(ValueError, match="must pair up, got 2 users and 3 items"):
        rec.predict([rec.users[1], rec.users[2]], [rec.items[j] for j in (1, 2, 3)])
    with pytest.raises(KeyError, match="987654"):
        rec.predict(987654, rec.items[1])
    with pytest.raises(KeyError, match="no such film"):
        rec.predict(rec.users[1], "no such film")
    default = rec.predict([987654, rec.users[1]], "no such film", unknown="default")
    with torch.no_grad():
        assert default == pytest.approx(rec.model(torch.tensor([[0, 0], [1, 0]])).numpy(), abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_evaluated_and_put_back(rec, training):
    rec = Recommender(rec.model, rec.train, rec.valid)
    try:
        rec.model.train(training)
        answers = [rec.predict(rec.users[2], list(rec.items.ids)) for _ in range(2)]
        assert np.array_equal(*answers)  # no dropout, no batch statistics
        rec.recommend(k=2)
        rec.evaluate(n_boot=2)
        with pytest.raises(ValueError, match="max_memory"):
            rec.recommend(max_memory="none")
        assert rec.model.training is training
        assert all(p.grad is None or not p.grad.any() for p in rec.model.parameters())
    finally:
        rec.model.eval()


# --- diverged models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_diverged_says_so(kind):
    rec = make_learner(kind).recommender
    with torch.no_grad():
        rec.model.i_weight.weight[7] = float("nan")  # one item is enough
    for call in (lambda: rec.recommend(k=3), lambda: rec.recommend([rec.users[2]], 1, filter_seen=False)):
        with pytest.raises(
            ValueError, match="scores are NaN: its training diverged; train again with a lower learning"
        ):
            call()
    assert len(rec.recommend(k=3, exclude=[rec.items[7]])) == 3 * (len(rec.users) - 1)


# --- neighbours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["item", "user"])
def test_neighbours_are_those_of_brute_force_cosine(rec, side):
    vocab, name = (rec.items, "title") if side == "item" else (rec.users, "user")
    similar = rec.similar_items if side == "item" else rec.similar_users
    table = rec.model.side(side).tables[0].weight.detach().double().numpy()[1:]
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    asked = [vocab[j] for j in (4, 11)]
    both = similar(asked, 6)
    assert list(both.columns) == [f"similar_to_{name}", name, "rank", "similarity"]
    for row, one in zip((3, 10), asked, strict=True):
        cosine = pd.Series(table @ table[row], index=list(vocab.ids)).drop(one).sort_values(ascending=False)
        got = similar(one, 6)
        assert list(got.columns) == [name, "rank", "similarity"]
        assert got[name].tolist() == cosine.index[:6].tolist()
        assert got["similarity"].to_numpy() == pytest.approx(cosine.to_numpy()[:6], abs=1e-5)
        assert got["rank"].tolist() == [1, 2, 3, 4, 5, 6]
        part = both[both[f"similar_to_{name}"] == one].drop(columns=f"similar_to_{name}").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, got)


def test_neighbours_of_unknown_ids_and_more_than_there_are(rec):
    with pytest.raises(KeyError, match="no such film"):
        rec.similar_items("no such film")
    with pytest.raises(KeyError, match="987654"):
        rec.similar_users([rec.users[1], 987654])
    others = len(rec.items) - 2
    with pytest.warns(CollabWarning, match=f"only {others} others exist, fewer than k=500"):
        got = rec.similar_items(rec.items[1], 500)
    assert len(got) == others and set(got["title"]) == set(rec.items.ids) - {rec.items[1]}


# --- evaluate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5])
def test_metrics_are_those_of_brute_force(rec, k):
    table = rec.evaluate(k=k, n_boot=20)
    valid, train = rec.valid.to_df(), rec.train.to_df()
    error = rec.predict(valid["user"], valid["title"]) - valid["rating"]
    assert table.loc["RMSE", "value"] == pytest.approx(np.sqrt((error**2).mean()), abs=1e-5)
    assert table.loc["MAE", "value"] == pytest.approx(error.abs().mean(), abs=1e-5)
    constant = valid["rating"] - train["rating"].mean()
    assert table.loc["RMSE", "global mean"] == pytest.approx(np.sqrt((constant**2).mean()), abs=1e-5)
    biases = UserItemBias(rec.train).predict(rec.valid.user_idx, rec.valid.item_idx).numpy()
    expected = np.sqrt(((biases - valid["rating"].to_numpy()) ** 2).mean())
    assert table.loc["RMSE", "user+item bias"] == pytest.approx(expected, abs=1e-5)
    scores = unseen_scores(rec, valid=False)
    popularity = train["title"].value_counts().reindex(scores.columns, fill_value=0)
    liked = valid[valid["rating"] >= train["rating"].median()]
    rows, popular = [], []
    for user, held_out in liked.groupby("user"):
        mine = scores.loc[user]
        rows.append(_metrics(mine, held_out["title"], k))
        popular.append(_metrics(popularity.where(mine > -np.inf, -np.inf), held_out["title"], k))
    expected, baseline = pd.DataFrame(rows).mean(), pd.DataFrame(popular).mean()
    for name in expected.index:
        assert table.loc[f"{name}@{k}", "value"] == pytest.approx(expected[name], abs=1e-6), name
        assert table.loc[f"{name}@{k}", "popularity"] == pytest.approx(baseline[name], abs=1e-6), name
        assert table.loc[f"{name}@{k}", "n"] == liked["user"].nunique()
    assert table.loc["RMSE", "n"] == len(valid) and 0 < expected["HitRate"] < 1


def _metrics(scores, relevant, k):
    """By the definitions: rank = 1 + better + tied others."""
    ranks = np.array([(scores >= scores[title]).sum() for title in relevant])
    hits = ranks[ranks <= k]
    ideal = (1 / np.log2(np.arange(1, min(k, len(relevant)) + 1) + 1)).sum()
    return {
        "HitRate": float(len(hits) > 0),
        "Precision": len(hits) / k,
        "Recall": len(hits) / len(relevant),
        "NDCG": (1 / np.log2(hits + 1)).sum() / ideal,
        "MRR": 1 / ranks.min() if len(hits) else 0.0,
    }


def by_popularity():
    """Items 1 > 2 > ... > 6 for everyone. Training: (a, 1), (b, 6); validation: (a, 2); for a final test: (a, 3)."""
    df = pd.DataFrame({"user": ["a", "b", "a", "b"], "item": [1, 6, 2, 5], "rating": 4.0})
    every = pd.concat([df, pd.DataFrame({"user": "b", "item": [3, 4], "rating": 4.0})], ignore_index=True)
    data = Interactions.from_df(every, Columns("user", "item", "rating"))
    model = CollFilter(data.n_users, data.n_items, 1, (0, 6))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.i_bias.weight[1:, 0] = torch.tensor([6.0, 5, 4, 3, 2, 1])
    model.trained = True  # by hand
    return Recommender(model, data.take([0, 1]), data.take([2]))


def rated(*rows):
    return pd.DataFrame(rows, columns=["user", "item", "rating"])


def test_a_final_test_hides_training_and_validation_items():
    rec = by_popularity()
    assert rec.evaluate(k=1, n_boot=2).loc["HitRate@1", "value"] == 1.0  # item 1 is hidden, item 2 is best
    test = rec.evaluate(on=rated(("a", 3, 5.0)), k=1, n_boot=2)
    assert test.loc["HitRate@1", "value"] == 1.0  # and so is item 2
    again = Recommender(rec.model, rec.train).evaluate(on=rated(("a", 3, 5.0)), k=2, n_boot=2)
    assert again.loc["MRR@2", "value"] == 0.5  # without a validation part item 2 is ahead
    pred = 6 / (1 + np.exp(-4.0))
    assert test.loc["RMSE", "value"] == pytest.approx(abs(pred - 5.0), abs=1e-5)


def test_pairs_that_leaked_into_the_test_are_counted_and_stay_candidates():
    rec = by_popularity()
    with pytest.warns(
        CollabWarning, match="1 of the pairs the model was trained or validated on occur in the evaluated"
    ):
        table = rec.evaluate(on=rated(("a", 1, 5.0)), k=1, n_boot=2)
    assert table.loc["HitRate@1", "value"] == 1.0
    with pytest.warns(CollabWarning, match="2 of the pairs"):
        rec.evaluate(on=rated(("a", 1, 5.0), ("a", 2, 5.0), ("a", 4, 5.0)), n_boot=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rec.evaluate(on=rated(("a", 3, 5.0)), n_boot=2)


def test_threshold_says_which_items_are_relevant():
    rec = by_popularity()
    test = rated(("a", 3, 5.0), ("a", 6, 2.0))
    assert rec.evaluate(on=test, k=1, n_boot=2).loc["Recall@1", "value"] == 1.0  # median training rating is 4
    assert rec.evaluate(on=test, k=1, n_boot=2, threshold=1.0).loc["Recall@1", "value"] == 0.5
    none = rec.evaluate(on=test, n_boot=2, threshold=9.0)
    assert list(none.index) == ["RMSE", "MAE"]


def test_unknown_ids_in_a_test_are_counted():
    rec = by_popularity()
    test = rated(("a", 3, 5.0), ("zoe", 3, 5.0), ("a", 99, 5.0))
    with pytest.warns(CollabWarning) as caught:
        table = rec.evaluate(on=test, k=1, n_boot=2)
    messages = " | ".join(str(w.message) for w in caught)
    assert "1 of 3 rows have 'user' ids" in messages and "1 of 3 rows have 'item' ids" in messages
    assert "leave out 2 relevant rows" in messages
    assert table.loc["HitRate@1", "n"] == 1 and table.loc["RMSE", "n"] == 3


def test_what_evaluate_refuses():
    rec = by_popularity()
    for on in ("test", None, 3, "train"):
        with pytest.raises(ValueError, match="on must be 'valid' or a DataFrame"):
            rec.evaluate(on)
    with pytest.raises(ValueError, match=r"no validation part to evaluate on: give a table of test rows"):
        Recommender(rec.model, rec.train).evaluate()
    with pytest.raises(KeyError, match="rating"):
        rec.evaluate(on=pd.DataFrame({"user": ["a"], "item": [3]}))
    with pytest.raises(ValueError, match="k must be at least 1"):
        rec.evaluate(k=0)


def test_evaluate_is_the_same_in_blocks_and_by_seed(rec):
    table = rec.evaluate(k=5, n_boot=50, seed=3)
    pd.testing.assert_frame_equal(rec.evaluate(k=5, n_boot=50, seed=3, max_memory="10KB"), table, rtol=1e-6)
    other = rec.evaluate(k=5, n_boot=50, seed=4)
    assert other["value"].equals(table["value"]) and not other["low"].equals(table["low"])


# --- the artefact ----------------------------------------------------------------------------------------------------


def test_the_loaded_recommender_answers_the_same(rec, tmp_path):
    again = Recommender.load(rec.save(tmp_path / "model"))
    exact = {"check_exact": True}
    pd.testing.assert_frame_equal(again.recommend(k=5), rec.recommend(k=5), **exact)
    title, user = rec.items[3], rec.users[3]
    pd.testing.assert_frame_equal(again.similar_items(title), rec.similar_items(title), **exact)
    pd.testing.assert_frame_equal(again.similar_users(user), rec.similar_users(user), **exact)
    pd.testing.assert_frame_equal(again.evaluate(n_boot=10), rec.evaluate(n_boot=10), **exact)
    stranger = [r.recommend(987654, unknown="default") for r in (again, rec)]
    pd.testing.assert_frame_equal(*stranger, **exact)
    assert again.predict(user, title) == rec.predict(user, title)
    assert again.config["model"]["class"] == type(rec.model).__name__ and rec.config == {}
    assert repr(again) == repr(rec) and f"{len(ratings()['user'].unique())} users" in repr(rec)
