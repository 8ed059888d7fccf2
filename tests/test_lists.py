"""Lists one can steer: allow and deny lists of every kind, what is hidden, diverse lists, users for an item."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from contract import planted
from hypothesis import given, settings
from hypothesis import strategies as st

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabInterpretation,
    CollabWarning,
    CollFilter,
    Features,
    GRURec,
    ItemKNN,
    NeuMF,
    NextItem,
    Popularity,
    Recommender,
    SampledCandidates,
    collab_learner,
    compare,
    splits,
)
from collabkit.retrieval import ExactIndex
from collabkit.retrieval.diversity import MMR, Diversity, met_vectors
from collabkit.retrieval.ranking import FullCatalogue, rank_pairs, top_k

ITEMS = pd.DataFrame({"item": [f"i{j:02d}" for j in range(60)], "genre": [f"g{j % 4}" for j in range(60)]})


def dataloaders(rated=False, **kwargs):
    feedback = {"rating_name": "rating"} if rated else {"feedback": "implicit", "history": 20}
    options = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "bs": 64, **feedback}
    options["splitter"] = splits.leave_last_out()
    return CollabDataLoaders.from_df(planted(rated), **{**options, **kwargs})


def trained(cls, rated=False, data=None, **options):
    learn = collab_learner(dataloaders(rated, **(data or {})), model=cls, seed=1, **options)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(6, 2e-2)
    return learn.recommender


MAKE = {
    "dot": lambda: trained(CollFilter, n_factors=8, loss_func="bpr"),
    "ratings": lambda: trained(CollFilter, True, n_factors=8, y_range=(0.5, 5.5)),
    "network": lambda: trained(NeuMF, n_factors=8, layers=[16, 8]),
    "sequence": lambda: trained(GRURec, n_factors=8),
    "ease": lambda: EASE(20).fit(dataloaders()).recommender,
    "knn": lambda: ItemKNN(20).fit(dataloaders()).recommender,
    "next": lambda: NextItem(l2=5).fit(dataloaders()).recommender,
    "popularity": lambda: Popularity().fit(dataloaders()).recommender,
}


@pytest.fixture(scope="module", params=MAKE)
def rec(request):
    return MAKE[request.param]()


@pytest.fixture(scope="module")
def ease():
    return MAKE["ease"]()


KINDS = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "generator": lambda ids: (name for name in ids),
    "keys": lambda ids: dict.fromkeys(ids).keys(),
    "Series": lambda ids: pd.Series(ids, dtype="str"),
    "category": lambda ids: pd.Series(ids, dtype="category"),
    "Index": pd.Index,
    "array": lambda ids: np.array(ids, dtype=object),
}


# --- allow and deny lists --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_any_iterable_allows_and_denies(rec, kind):
    ids = ["i07", "i21", "i22", "i38", "i55"]
    allowed = rec.recommend(["u1", "u2"], k=3, items=KINDS[kind](ids))
    assert set(allowed["item"]) <= set(ids)
    full = rec.recommend(["u1", "u2"], k=10)
    top = full.groupby("user")["item"].first().tolist()
    denied = rec.recommend(["u1", "u2"], k=10, exclude=KINDS[kind](top))
    assert not set(denied["item"]) & set(top)
    left = rec.recommend(["u1", "u2"], k=12)
    left = left[~left["item"].isin(top)].groupby("user").head(10)
    np.testing.assert_allclose(denied["score"], left["score"], atol=1e-5)  # of equal scores any item may be there


def test_unknown_ids_are_named(ease):
    meant = r"'i07x' \(did you mean 'i07'\?\)"
    with pytest.warns(CollabWarning, match="2 of 3 ids in exclude= .* left out: 'none', 'i07x'$"):
        ease.recommend("u1", exclude=["none", "i01", "i07x"])
    with pytest.warns(CollabWarning, match=f"1 of 2 ids in items= .* left out: {meant}$"):
        ease.recommend("u1", k=1, items=["i07x", "i01"], filter_seen=False)
    with pytest.warns(CollabWarning, match=f"2 of 3 pairs in exclude= .* hide nothing: 'none', {meant}$"):
        ease.recommend("u1", exclude={"u1": ["i07x", "i01"], "none": "i02"})
    with pytest.warns(CollabWarning, match=f"of 2 rows of history 1 name items .* left out: {meant}$"):
        ease.recommend(history=["i07x", "i01"])
    with pytest.warns(CollabWarning, match=f"of 2 rows of history 1 name items .* left out: {meant}$"):
        ease.recommend(history=pd.DataFrame({"user": ["a", "a"], "item": ["i07x", "i01"]}))


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_ids_are_counted(ease, kind):
    with pytest.warns(CollabWarning, match="2 of 3 ids in exclude= are unknown to the model and left out"):
        found = ease.recommend("u1", k=5, exclude=KINDS[kind](["i07", "nothing", "nowhere"]))
    assert found.equals(ease.recommend("u1", k=5, exclude=["i07"]))
    with pytest.warns(CollabWarning, match="1 of 3 ids in items= are unknown to the model and left out"):
        found = ease.recommend("u1", k=1, items=KINDS[kind](["i07", "nothing", "i22"]))
    assert found.equals(ease.recommend("u1", k=1, items=["i07", "i22"]))
    with pytest.raises(KeyError, match="nothing"):
        ease.recommend("u1", items=KINDS[kind](["nothing", "nowhere"]))
    with pytest.raises(ValueError, match="no item is left"):
        ease.recommend("u1", items=KINDS[kind]([]))
    assert ease.recommend("u1", exclude=KINDS[kind]([])).equals(ease.recommend("u1"))


def as_table(lists):
    return pd.DataFrame([(user, item) for user, ids in lists.items() for item in ids], columns=["user", "item"])


@pytest.mark.parametrize("form", [lambda lists: lists, as_table], ids=["dict", "table"])
@pytest.mark.parametrize("whose", ["users", "recent", "history"])
def test_lists_by_user(rec, form, whose):
    """Against the list without limits, cut by hand, for users, with recent events, and for new people with ids."""
    recent = pd.DataFrame({"user": ["u1", "u2"], "item": ["i11", "i32"], "rating": 5.0, "time": 10**6})
    who = {"users": {"users": ["u1", "u2"]}, "recent": {"users": ["u1", "u2"], "recent": recent}}
    asked = who.get(whose, {"history": recent})
    full = rec.recommend(k=60, filter_seen=False, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # fewer than k are left
        deny = {"u1": {"i05", "i09"}, "u2": ["i02"]}
        options = {"filter_seen": False, **asked}
        found = rec.recommend(k=60, exclude=form(deny), **options)
        keep = [item not in deny[user] for user, item in zip(full["user"], full["item"], strict=True)]
        same_lists(found, full[keep])
        allow = {"u2": ["i40", "i02", "i07"], "u1": ["i13"]}
        found = rec.recommend(k=5, items=form(allow), exclude=["i40"], **options)
        keep = [item in allow[user] and item != "i40" for user, item in zip(full["user"], full["item"], strict=True)]
        same_lists(found, full[keep])


def same_lists(found, expected):
    """The same items for each user, and the same scores in their order; equal ones may change places."""
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    assert found["user"].tolist() == expected["user"].tolist()
    assert set(zip(found["user"], found["item"], strict=True)) == set(
        zip(expected["user"], expected["item"], strict=True)
    )


def test_an_allow_list_by_user_names_who_is_asked(ease):
    found = ease.recommend(k=1, items={"u9": ["i01", "i02"], "u4": ["i03"]}, filter_seen=False)
    assert found["user"].tolist() == ["u9", "u4"] and found["item"].iloc[1] == "i03"
    with pytest.warns(CollabWarning, match="fewer than k=1 items are left for 1 of 2 users"):
        found = ease.recommend(["u4", "u5"], k=1, items={"u4": "i03"}, filter_seen=False)
    assert found["user"].tolist() == ["u4"]  # a user without an entry may see nothing
    with pytest.warns(CollabWarning, match="2 of 3 pairs in items= name unknown ids; they allow nothing"):
        found = ease.recommend(k=1, items={"u4": ["i03", "nothing"], "nobody": ["i01"]}, filter_seen=False)
    assert found["item"].tolist() == ["i03"]
    with pytest.raises(ValueError, match="no item is left"):
        ease.recommend("u1", items={})
    assert ease.recommend("u1", exclude={}).equals(ease.recommend("u1"))
    same_user = ease.recommend(["u4", "u4"], k=1, items={"u4": ["i03"]}, filter_seen=False)
    assert same_user["item"].tolist() == ["i03", "i03"]


def test_lists_by_user_need_ids(ease):
    for lists in ({"items": {"u1": ["i03"]}}, {"exclude": as_table({"u1": ["i03"]})}):
        with pytest.raises(ValueError, match="given per user, but these users have no ids"):
            ease.recommend(history=["i01"], **lists)
        with pytest.raises(ValueError, match="given per user, but these users have no ids"):
            ease.default_list(**lists)
    with pytest.raises(KeyError, match="not found"):
        ease.recommend("u1", items=pd.DataFrame({"user": ["u1"], "film": ["i03"]}))
    with pytest.raises(TypeError, match="received type number"):
        ease.recommend("u1", exclude={3, 4})
    with pytest.raises(ValueError, match="missing"):
        ease.recommend("u1", exclude=[None, "i03"])


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_lists_are_the_best_of_what_is_left(ease, data):
    items = st.lists(st.sampled_from(ITEMS["item"].tolist()), max_size=8)
    users = data.draw(st.lists(st.sampled_from([f"u{j}" for j in range(120)]), min_size=1, max_size=4))
    allow = data.draw(st.none() | st.dictionaries(st.sampled_from(users), items, min_size=1))
    deny = data.draw(st.none() | st.dictionaries(st.sampled_from(users), items))
    seen = data.draw(st.sampled_from([True, False, "train"]))
    pairs = {True: ease.data.seen, "train": ease.data.known, False: None}[seen]
    scores = ease.recommend(users, k=60, filter_seen=False)
    keep = []
    for user, item in zip(scores["user"], scores["item"], strict=True):
        row = int(ease.users.encode([user])[0])
        hidden = [] if pairs is None else ease.items.decode(pairs.of([row]).values.numpy())
        keep.append(item not in hidden and (allow is None or item in allow.get(user, ()))
                    and (deny is None or item not in deny.get(user, ())))  # fmt: skip
    place = np.repeat(np.arange(len(users)), 60)
    left = scores[keep].assign(place=place[keep]).groupby("place").head(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)
        try:
            found = ease.recommend(users, k=4, items=allow, exclude=deny, filter_seen=seen)
        except ValueError:
            assert allow is not None and not any(allow.get(user) for user in users)
            return
    assert found[["user", "item"]].values.tolist() == left[["user", "item"]].values.tolist()


# --- what is hidden --------------------------------------------------------------------------------------------------


def test_the_validation_rows_alone_can_be_shown(rec):
    for user in ("u3", "u30"):
        row = rec.users.encode([user])
        train, valid = (rec.items.decode(part.pairs.of(row).values.numpy()) for part in (rec.train, rec.valid))
        shown = set(rec.recommend(user, k=60, filter_seen=False)["item"])
        assert shown == set(ITEMS["item"])
        with pytest.warns(CollabWarning, match="fewer than k"):
            assert set(rec.recommend(user, k=60, filter_seen="train")["item"]) == shown - set(train)
        with pytest.warns(CollabWarning, match="fewer than k"):
            assert set(rec.recommend(user, k=60)["item"]) == shown - set(train) - set(valid)
    for odd in ("valid", None, 1, "True"):
        with pytest.raises(ValueError, match="filter_seen must be True, False or 'train'"):
            rec.recommend("u3", filter_seen=odd)
        with pytest.raises(ValueError, match="filter_seen must be True, False or 'train'"):
            rec.evaluate(filter_seen=odd)


def test_what_evaluation_hides(ease):
    """Ranks by hand for each way, in a final test that repeats nothing."""
    known = pd.concat([ease.train.to_df(), ease.valid.to_df()])
    rng, rows = np.random.default_rng(0), []
    for user in (f"u{j}" for j in range(0, 120, 7)):
        unseen = np.setdiff1d(ITEMS["item"], known.loc[known["user"] == user, "item"])
        rows.append((user, rng.choice(unseen)))
    test = pd.DataFrame(rows, columns=["user", "item"])
    ndcg = {}
    for seen in (True, "train", False):
        ranks = []
        for user, item in rows:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CollabWarning)
                listed = ease.recommend(user, k=60, filter_seen=seen)
            ranks.append(listed.loc[listed["item"] == item, "rank"].item())
        table = ease.evaluate(test, filter_seen=seen, k=10, metrics=["NDCG"])
        ndcg[seen] = np.mean([1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in ranks])
        assert table.loc["NDCG@10", "value"] == pytest.approx(ndcg[seen])
        both = compare([ease.model], on=test, filter_seen=seen, metrics=["NDCG"])
        assert both["value"].item() == pytest.approx(ndcg[seen]) and both.columns.name == table.columns.name
        assert ease.task(test, filter_seen=seen).title == table.columns.name
        assert len(ease.evaluate(test, filter_seen=seen, candidates=SampledCandidates(10), n_boot=2)) == 6
    assert ndcg[True] > ndcg["train"] > ndcg[False]  # fewer compete
    names = [ease.evaluate(test, filter_seen=seen, n_boot=1).columns.name for seen in (True, "train", False)]
    assert names == ["seen items hidden", "training items hidden", "no items hidden"]
    on_valid = [ease.evaluate(filter_seen=seen, n_boot=1)["value"] for seen in (True, "train")]
    assert on_valid[0].equals(on_valid[1])  # the validation part is what is asked about


def test_rows_that_repeat_what_was_seen_stay_candidates_and_are_said(ease):
    again = ease.train.to_df().groupby("user").head(1).head(20)[["user", "item"]]
    for seen in (True, "train", False):
        with pytest.warns(CollabWarning, match="20 of the pairs the model was trained or validated on occur"):
            table = ease.evaluate(again, filter_seen=seen, n_boot=1)
        assert table["n"].eq(20).all() and ("but those evaluated" in table.columns.name) == bool(seen)


def test_the_fold_in_is_evaluated_with_or_without_what_is_given():
    rows = planted()
    dls = dataloaders(splitter=splits.cold_users(0.2, seed=0), history=None)
    learn = collab_learner(dls, model=CollFilter, n_factors=8, loss_func="bpr", seed=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(6, 2e-2)
    test = rows[rows["user"].isin(dls.valid.items["user"])]
    hidden, train, shown = (learn.evaluate_fold_in(test, n_given=[3], filter_seen=s) for s in (True, "train", False))
    assert hidden.equals(train) and (hidden["NDCG@10"] > shown["NDCG@10"]).loc[3]
    with pytest.raises(ValueError, match="filter_seen"):
        learn.evaluate_fold_in(test, n_given=[3], filter_seen="yes")


# --- clicks that are unknown, answers that are none ------------------------------------------------------------------


def test_unknown_clicks_are_counted(rec):
    rated = rec.train.rating is not None
    own = {"i01": 5.0, "i05": 4.0, "nothing": 5.0}
    history = own if rated else list(own)
    with pytest.warns(CollabWarning, match="of 3 rows of history 1 name items that the model does not know"):
        found = rec.recommend(history=history, k=5)
    known = {item: value for item, value in own.items() if item != "nothing"}
    expected = rec.recommend(history=known if rated else list(known), k=5)
    assert found["item"].tolist() == expected["item"].tolist()
    with pytest.raises(KeyError, match="nothing"):
        rec.recommend(history={"nothing": 5.0} if rated else ["nothing"])


@pytest.mark.parametrize("form", [dict, pd.Series])
def test_answers_of_none_are_skipped(form):
    rec = MAKE["ratings"]()
    asked = rec.questionnaire(4)["item"].tolist()
    answers = dict(zip(asked, [5.0, None, 1.0, None], strict=True))
    given = {item: value for item, value in answers.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rec.recommend(history=form(answers), k=5)
    assert found.equals(rec.recommend(history=given, k=5))
    with pytest.raises(ValueError, match="the history is empty"):
        rec.recommend(history=form(dict.fromkeys(asked)))
    with pytest.raises(ValueError, match="finite numbers"):
        rec.recommend(history={asked[0]: float("nan")})


# --- diverse lists ---------------------------------------------------------------------------------------------------


def greedy(scores, unit, weight, k):
    """Maximal marginal relevance, step by step."""
    relevance = (scores - scores.min()) / max(scores.max() - scores.min(), 1e-30)
    chosen = []
    while len(chosen) < min(k, len(scores)):

        def value(j):
            near = max((float(unit[j] @ unit[i]) for i in chosen), default=0.0)
            return (1 - weight) * relevance[j] - weight * near

        chosen.append(max((j for j in range(len(scores)) if j not in chosen), key=value))
    return chosen


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 12), k=st.integers(1, 14), weight=st.floats(0.05, 1))
def test_mmr_is_the_greedy_choice(seed, n, k, weight):
    rng = np.random.default_rng(seed)
    unit = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n + 1, 3))).float(), dim=1)
    scores = np.sort(rng.normal(size=n).astype(np.float32))[::-1].copy()
    place = torch.arange(n)[None]
    best, order = MMR(unit, weight).best(torch.from_numpy(scores)[None], torch.arange(1, n + 1), place, k)
    assert order[0].tolist() == greedy(scores.astype(float), unit[1:].double(), weight, k)
    assert best[0].tolist() == scores[order[0].numpy()].tolist()


def test_places_without_an_item_come_last():
    unit = torch.nn.functional.normalize(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    scores = torch.tensor([[3.0, 2.0, -torch.inf, -torch.inf], [-torch.inf] * 4, [1.0] * 4])
    best, order = MMR(unit, 1.0).best(scores, torch.arange(1, 5), torch.arange(4).expand(3, 4), k=4)
    assert all(sorted(row) == [0, 1, 2, 3] for row in order.tolist())
    assert best[0, 2:].tolist() == [-torch.inf] * 2 and best[0, :2].isfinite().all()


def test_diverse_lists_of_every_model(rec):
    """By the greedy choice over the model's own scores; and their metrics are those of these lists."""
    users, k = ["u1", "u50", "u77"], 5
    unit = rec._likeness("vectors").double()
    full = rec.recommend(users, k=20)
    found = rec.recommend(users, k=k, diversity=0.6, pool=20)
    assert (found.groupby("user")["item"].first() == full.groupby("user")["item"].first()).all()
    for user in users:
        pool = full[full["user"] == user].reset_index(drop=True)
        vectors = unit[torch.from_numpy(rec.items.encode(pool["item"]))]
        logits = pool["score"].to_numpy(float)
        if rec.model.y_range is not None:
            low, high = rec.model.y_range
            share = (logits - low) / (high - low)
            logits = np.log(share / (1 - share))
        expected = pool.loc[greedy(logits, vectors, 0.6, k), "item"].tolist()
        assert found.loc[found["user"] == user, "item"].tolist() == expected
    assert rec.recommend(users, k=k, diversity=0).equals(rec.recommend(users, k=k))


def test_metrics_of_diverse_lists_are_those_of_the_lists(rec):
    k, of_train = 5, Recommender(rec.model, rec.data.train)  # evaluation tells histories no validation rows
    lists = of_train.recommend(k=k, diversity=0.5).merge(rec.valid.to_df()[["user", "item"]])
    if rec.train.rating is not None:
        liked = rec.valid.to_df()
        lists = lists.merge(liked[liked["rating"] >= rec.train.rating.median().item()][["user", "item"]])
    table = rec.evaluate(k=k, metrics=["HitRate", "MRR", "AUC", "Diversity"], diversity=0.5, n_boot=1)
    n = table.loc[f"HitRate@{k}", "n"]
    assert table.loc[f"HitRate@{k}", "value"] == pytest.approx(len(lists) / n)
    assert table.loc[f"MRR@{k}", "value"] == pytest.approx((1 / lists["rank"]).sum() / n)
    assert 0 < table.loc["AUC", "value"] < 1
    plain = rec.evaluate(k=k, metrics=["Diversity"], n_boot=1)["value"].item()
    assert table.loc[f"Diversity@{k}", "value"] >= plain - 1e-3


def test_all_ranks_follow_the_list():
    """The list first, then the others in the order of their scores."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 9, generator=generator)
    unit = torch.nn.functional.normalize(torch.randn(10, 3, generator=generator), dim=1)
    rerank = MMR(unit, 0.7, pool=6)
    candidates, users = torch.arange(1, 10), torch.arange(3)
    source = FullCatalogue(lambda rows: scores[rows].clone(), candidates, 10, None)
    pairs = torch.cartesian_prod(users, candidates)
    ranks, lists = rank_pairs(source, *pairs.T, block=2, list_k=4, rerank=rerank)
    shown = top_k(lambda rows: scores[rows].clone(), users, candidates, 4, n_items=10, block=2, rerank=rerank)[0]
    assert torch.equal(lists, shown)
    for user, mine in enumerate(ranks.reshape(3, 9)):
        rest = [j + 1 for j in scores[user].argsort(descending=True).tolist() if j + 1 not in shown[user].tolist()]
        assert (mine.argsort() + 1).tolist() == [*shown[user].tolist(), *rest]


def test_diverse_by_a_feature():
    rec = trained(CollFilter, data={"items": ITEMS, "history": None}, n_factors=8, loss_func="bpr")
    genre = ITEMS.set_index("item")["genre"]
    for by in ("genre", ["genre"], rec.data.features.items):
        found = rec.recommend(k=4, diversity=0.9, diversify_by=by, pool=60)
        assert found["item"].map(genre).groupby(found["user"]).nunique().eq(4).all()
    plain = rec.recommend(k=4)
    assert plain["item"].map(genre).groupby(plain["user"]).nunique().mean() < 3
    bare = MAKE["dot"]()  # a model that knows no features
    known = Features.from_df(ITEMS, bare.items)
    found = bare.recommend(k=4, diversity=0.9, diversify_by=known, pool=60)
    assert found["item"].map(genre).groupby(found["user"]).nunique().eq(4).all()
    with pytest.raises(KeyError, match="the data has none"):
        bare.recommend(k=4, diversity=0.9, diversify_by="genre")
    with pytest.raises(KeyError, match="did you mean 'genre'"):
        rec.recommend(k=4, diversity=0.9, diversify_by="genres")
    with pytest.raises(TypeError, match="diversify_by must be"):
        rec.recommend(k=4, diversity=0.9, diversify_by=3)
    for odd in (-0.1, 1.1, float("nan"), "much", True):
        with pytest.raises(ValueError, match="diversity must"):
            rec.recommend(k=4, diversity=odd)
    with pytest.raises(ValueError, match="pool must be a whole number"):
        rec.recommend(k=4, diversity=0.5, pool=0)


def test_an_index_gives_the_pool():
    rec = MAKE["dot"]()
    exact = rec.recommend(["u1", "u2"], k=5, diversity=0.5, exclude={"u1": ["i03"]})
    rec.use_index(ExactIndex)
    assert rec.recommend(["u1", "u2"], k=5, diversity=0.5, exclude={"u1": ["i03"]})["item"].equals(exact["item"])
    with pytest.raises(ValueError, match="an index cannot take items= per user"):
        rec.recommend(items={"u1": ["i03"]})


def test_vectors_of_who_has_met_items_come_near_the_cosines_of_their_users(ease):
    data = ease.data
    unit = met_vectors(data)  # more directions than items: exact
    pairs = data.train.pairs
    table = torch.zeros(data.n_users, data.n_items)
    table[pairs.rows, pairs.values] = 1
    table = torch.nn.functional.normalize(table, dim=0)
    assert torch.allclose(unit @ unit.T, table.T @ table, atol=1e-4)


# --- what a knob costs -----------------------------------------------------------------------------------------------


def test_a_curve_says_what_evaluate_says(ease):
    table = ease.tradeoff("diversity", [0.8, 0.3], k=5)
    assert table.index.tolist() == [0.0, 0.3, 0.8] and table.columns.name == "seen items hidden"
    for value, row in table.iterrows():
        there = ease.evaluate(k=5, metrics=["NDCG", "Diversity", "Novelty", "Coverage"], diversity=value)
        assert there["value"].tolist() == pytest.approx(
            row[["NDCG@5", "Diversity@5", "Novelty@5", "Coverage@5"]].tolist()
        )
        assert row["change"] == pytest.approx(row["NDCG@5"] - table["NDCG@5"].iloc[0])
    assert table["unlikeness"].is_monotonic_increasing and table["NDCG@5"].iloc[-1] < table["NDCG@5"].iloc[0]
    assert np.allclose(table["unlikeness"], table["Diversity@5"], atol=1e-3)  # by who has met them, both
    assert table.attrs["free"] in (0.0, 0.3) and table["low"].iloc[0] == table["high"].iloc[0] == 0
    bold = ease.tradeoff("novelty_weight", [0.5], n_boot=5)
    assert bold["Novelty@10"].iloc[1] > bold["Novelty@10"].iloc[0]
    fresh = ease.tradeoff("freshness_weight", [3], half_life="1min", n_boot=5)
    assert fresh["age"].iloc[1] <= fresh["age"].iloc[0]
    ax = CollabInterpretation(ease).plot_tradeoff("diversity", [0.5], n_boot=5)
    assert ax.get_xlabel() == "unlikeness" and ax.get_ylabel() == "NDCG@10"
    for options, match in (
        ({"knob": "luck"}, "knob must be one of"), ({"metric": "AUC"}, "metric must be one of"),
        ({"knob": "freshness_weight"}, "needs half_life="), ({"values": [2]}, "diversity must lie in 0..1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            ease.tradeoff(**options)


# --- users for an item -----------------------------------------------------------------------------------------------


def test_users_for_an_item(rec):
    every = rec.recommend(k=60, filter_seen=False)
    for seen, known in ((True, rec.data.seen), ("train", rec.data.known), (False, None)):
        for item in ("i03", ["i20", "i03", "i20"]):
            found = rec.recommend_users(item, k=7, filter_seen=seen)
            ids = [item] if isinstance(item, str) else item
            assert list(found) == (
                ["user", "rank", "score"] if isinstance(item, str) else ["item", "user", "rank", "score"]
            )
            for place, one in enumerate(ids):
                mine = every[every["item"] == one]
                if known is not None:
                    row = int(rec.items.encode([one])[0])
                    met = rec.users.decode(known.rows[known.values == row].numpy())
                    mine = mine[~mine["user"].isin(met)]
                got = found.iloc[7 * place : 7 * place + 7]
                best = mine["score"].nlargest(7).to_numpy()
                np.testing.assert_allclose(got["score"], best, rtol=1e-4, atol=1e-5)
                assert set(got["user"]) <= set(mine["user"]) and got["rank"].tolist() == list(range(1, 8))


def test_users_to_choose_from(ease):
    found = ease.recommend_users("i03", k=2, users={"u7", "u3", "u11"}, filter_seen=False)
    assert set(found["user"]) <= {"u7", "u3", "u11"} and len(found) == 2
    with pytest.warns(CollabWarning, match="fewer than k=5 users are left for 1 of 1 items"):
        assert len(ease.recommend_users("i03", k=5, users=["u7", "u3"], filter_seen=False)) == 2
    with pytest.warns(CollabWarning, match="1 of 2 ids in users= are unknown"):
        assert len(ease.recommend_users("i03", k=1, users=["u7", "nobody"], filter_seen=False)) == 1
    with pytest.raises(KeyError, match="nothing"):
        ease.recommend_users("nothing")
    with pytest.raises(ValueError, match="no user is left"):
        ease.recommend_users("i03", users=[])
    with pytest.raises(ValueError, match="k must be a whole number"):
        ease.recommend_users("i03", k=0)
    small, large = (ease.recommend_users(["i03", "i20"], k=9, max_memory=size) for size in (2_000, "512MB"))
    assert small.equals(large)


# --- biases ----------------------------------------------------------------------------------------------------------


def test_unseen_ids_are_in_no_ranking_of_biases():
    dls = dataloaders(True, splitter=splits.cold_items(0.1, seed=0))
    learn = collab_learner(dls, n_factors=4, y_range=(0.5, 5.5), seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
    unseen = (learn.recommender.train.counts("item") == 0).nonzero().squeeze(1)
    unseen = unseen[unseen > 0]
    with torch.no_grad():
        learn.model.i_bias.weight[unseen] = 100.0
    assert len(unseen) > 2
    interp = CollabInterpretation(learn.recommender)
    for largest in (True, False):
        table = interp.item_bias(None, largest)
        assert not set(table["item"]) & set(learn.recommender.items.decode(unseen.numpy()))
        assert (table["n_ratings"] > 0).all()


def test_a_weight_of_zero_asks_for_nothing():
    def never():
        raise AssertionError

    assert Diversity().ranker(never) is None and isinstance(MAKE["ease"](), Recommender)
