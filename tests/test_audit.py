"""`dls.audit()`: every figure by hand, and the chance level against simulation and enumeration."""

import warnings
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import CollabDataLoaders, CollabWarning, metrics, splits
from collabkit.data.interactions import Columns, Interactions
from collabkit.evaluate.audit import audit, chance_level

# Rows: user, item, time. Item e and user 4 occur in the validation part alone.
TRAIN = [(1, "a", 1), (1, "b", 2), (1, "c", 9), (2, "a", 3), (2, "a", 3), (3, "a", 5), (3, "d", 8)]
VALID = [(1, "d", 5), (2, "e", 6), (4, "a", 7), (3, "e", 8), (2, "e", 7)]


def parts(rating=None, time="time"):
    df = pd.DataFrame([*TRAIN, *VALID], columns=["user", "item", "time"])
    if rating is not None:
        df["stars"] = rating
    data = Interactions.from_df(df, Columns("user", "item", None if rating is None else "stars", time))
    return data.take(range(len(TRAIN))), data.take(range(len(TRAIN), len(df)))


def value(table, check):
    return table.loc[check, "value"]


def test_by_hand():
    table = audit(*parts(), k=2)
    assert table.columns.tolist() == ["value", "meaning"] and table.index.name == "check" and table.index.is_unique
    expected = {
        "training rows": 7,
        "validation rows": 5,
        "users": 4,
        "items": 5,
        "density": 10 / 20,  # 2-a and 2-e occur twice
        "repeated pairs": 2,
        "tied times": 4 / 12,  # 2-a twice at 3, and user 3 at 8 in both parts
        "training rows from the future": 2 / 7,  # those at 8 and 9 lie after 5, one is at it
        "validation rows before their user's training": 1 / 5,  # 1-d at 5, before 1-c at 9; 3-e is at the same time
        "training rows from their user's future": 1,  # 1-c at 9, after 1-d at 5; 3-d is at the time of 3-e
        "users with training rows from their future": 1,
        "cold users of the validation part": 1,
        "validation rows of cold users": 1,
        "cold items of the validation part": 1,
        "validation rows of cold items": 3,
        # counts 1 1 1 4: sum (2 i - n - 1) c_i / (n sum c) = (-3 - 1 + 1 + 12) / (4 * 7)
        "Gini of item popularity": 9 / 28,
        "rows of the top 1 % of items": 4 / 7,
    }
    for check, number in expected.items():
        assert value(table, check) == pytest.approx(number), check
    # five items; unseen: user 1 two, user 2 four, user 3 three, user 4 five; each has one item to find
    assert value(table, "chance level of HitRate@2") == pytest.approx((1 + 2 / 4 + 2 / 3 + 2 / 5) / 4)
    assert value(table, "chance level of MRR@2") == pytest.approx(np.mean([1.5 / n for n in (2, 4, 3, 5)]))
    assert value(table, "chance level of AUC") == 0.5
    assert set(table.index) - set(expected) == {
        f"chance level of {name}"
        for name in ("HitRate@2", "Precision@2", "Recall@2", "NDCG@2", "MAP@2", "MRR@2", "AUC")
    }
    assert "over 4 users" in table.loc["chance level of AUC", "meaning"] and table["meaning"].str.len().min() > 10


def test_without_times_nothing_is_said_of_them():
    table = audit(*parts(time=None))
    assert not {"tied times", "training rows from the future"} & set(table.index) and value(table, "users") == 4


FUTURE = ["training rows from their user's future", "users with training rows from their future"]


def test_a_leaked_future_event_is_caught(planted):
    """The canary: future events put into the training part on purpose are counted, to the row and to the user."""
    split = splits.time_split(0.2, time_name="time")(planted)
    train, valid = planted.iloc[split.train], planted.iloc[split.valid]
    options = {"feedback": "implicit", "time_name": "time", "seed": 0}
    clean = CollabDataLoaders.from_dfs(train, valid, **options).audit()
    assert [value(clean, check) for check in FUTURE] == [0, 0]
    rows = valid.sort_values("time")
    first = rows.drop_duplicates("user")
    leaked = rows.drop(index=first.index).drop_duplicates("user").head(3)  # each the user's second held-out row
    more = rows.drop(index=[*first.index, *leaked.index])
    more = more[more["user"] == leaked["user"].iloc[0]].head(1)  # one of them leaks a second one
    moved = pd.concat([leaked, more])
    assert len(moved) == 4
    leaky = CollabDataLoaders.from_dfs(pd.concat([train, moved]), valid.drop(index=moved.index), **options).audit()
    assert [value(leaky, check) for check in FUTURE] == [4, 3]
    assert "splits.time_split leaves none" in leaky.loc[FUTURE[0], "meaning"]


def test_clean_splits_are_not_accused(planted):
    windows = splits.rolling_windows(2, 100 / 86_400)  # of 100 events; their times are seconds
    for splitter in (splits.time_split(0.3), splits.leave_last_out(2), *windows):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollabWarning)  # what comes after a window is left out
            dls = CollabDataLoaders.from_df(planted, feedback="implicit", time_name="time", splitter=splitter, seed=0)
        assert [value(dls.audit(), check) for check in FUTURE] == [0, 0], splitter.by
    dls = CollabDataLoaders.from_df(planted, feedback="implicit", time_name="time", seed=0)  # at random
    train, valid = dls.data.train.to_df(), dls.data.valid.to_df()
    first = train["user"].map(valid.groupby("user")["time"].min())
    late = train["time"] > first
    assert [value(dls.audit(), check) for check in FUTURE] == [late.sum(), train["user"][late].nunique()]
    assert late.sum() > 100


def test_only_liked_items_are_to_be_found():
    # the median training rating is 4: 1-d (5) and 3-e (4) count
    table = audit(*parts(rating=[4, 4, 3, 5, 5, 4, 1, 5, 3, 1, 4, 2]), k=1)
    assert value(table, "chance level of HitRate@1") == pytest.approx((1 / 2 + 1 / 3) / 2)
    nothing = audit(*parts(rating=[5] * 7 + [1] * 5))
    assert not any(check.startswith("chance") for check in nothing.index)


@pytest.mark.parametrize("k", [0, -1])
def test_bad_k(k):
    with pytest.raises(ValueError, match=f"k must be a whole number of at least 1, got {k}"):
        audit(*parts(), k=k)


def test_clean_data_has_nothing_to_beware_of(planted):
    dls = CollabDataLoaders.from_df(
        planted, feedback="implicit", time_name="time", splitter=splits.time_split(0.2, cold="drop"), seed=0
    )
    table = dls.audit(k=5)
    for check in ("repeated pairs", "tied times", "training rows from the future", "cold users of the validation part"):
        assert value(table, check) == 0
    assert value(table, "validation rows before their user's training") == 0
    leaky = CollabDataLoaders.from_df(planted, feedback="implicit", time_name="time", seed=0).audit()
    assert value(leaky, "training rows from the future") > 0.9
    before = planted.groupby("user")["time"].max()
    valid = splits.random_split(0.2, seed=0)(planted).valid
    train_last = planted.drop(index=planted.index[valid]).groupby("user")["time"].max()
    rows = planted.iloc[valid]
    own = (train_last.reindex(rows["user"]).to_numpy() > rows["time"].to_numpy()).mean()
    assert value(leaky, "validation rows before their user's training") == pytest.approx(own) and len(before) == 30


# --- the chance level ------------------------------------------------------------------------------------------------


def of_ranks(ranks, k):
    groups = np.zeros(len(ranks), dtype=int)
    functions = {
        "HitRate": metrics.hit_rate, "Precision": metrics.precision, "Recall": metrics.recall, "NDCG": metrics.ndcg,
        "MAP": metrics.average_precision, "MRR": metrics.reciprocal_rank,
    }  # fmt: skip
    return {f"{name}@{k}": float(f(np.asarray(ranks), groups, k)[0]) for name, f in functions.items()}


@pytest.mark.parametrize("n", range(1, 6))
def test_chance_level_is_the_mean_over_all_orders(n):
    for r in range(1, n + 1):
        for k in range(1, n + 3):
            orders = [of_ranks(sorted(order[:r]), k) for order in permutations(range(1, n + 1))]
            expected = pd.DataFrame(orders).mean()
            got = chance_level(np.array([n]), np.array([r]), k)
            assert got["AUC"] == 0.5
            assert {name: got[name] for name in expected.index} == pytest.approx(expected.to_dict()), (n, r, k)


def test_chance_level_against_a_simulation():
    rng = np.random.default_rng(0)
    n, r, k = rng.integers(15, 60, 40), rng.integers(1, 8, 40), 10
    drawn = [
        of_ranks(np.sort(rng.choice(n_one, r_one, replace=False)) + 1, k)
        for n_one, r_one in zip(n, r, strict=True)
        for _ in range(50)
    ]
    drawn = pd.DataFrame(drawn)
    got = chance_level(n, r, k)
    for name in drawn:
        assert abs(drawn[name].mean() - got[name]) < 4 * drawn[name].std() / len(drawn) ** 0.5, name


def test_a_random_order_scores_the_chance_level():
    """Of real dataloaders: the candidates and what is to be found are those of the evaluation."""
    df = pd.DataFrame({"user": np.repeat(np.arange(60), 8), "item": np.random.default_rng(1).integers(0, 30, 480)})
    df = df.drop_duplicates(ignore_index=True)
    dls = CollabDataLoaders.from_df(
        df, feedback="implicit", seed=2, splitter=splits.random_split(0.3, seed=0, cold="drop")
    )
    train, valid = dls.train.dataset, dls.valid.dataset
    generator, rows = torch.Generator().manual_seed(0), []
    seen = torch.zeros(train.n_users, train.n_items, dtype=torch.bool)
    seen[train.user_idx, train.item_idx] = True
    for _ in range(40):
        scores = torch.rand(seen.shape, generator=generator).masked_fill(seen, -1)
        scores[:, 0] = -1
        for user in valid.user_idx.unique():
            own = scores[user, valid.item_idx[valid.user_idx == user]]
            rows.append(of_ranks(np.sort((scores[user][None, :] >= own[:, None]).sum(1).numpy()), 5))
    rows, table = pd.DataFrame(rows), dls.audit(k=5)
    for name in rows:
        error = rows[name].std() / len(rows) ** 0.5
        assert abs(rows[name].mean() - value(table, f"chance level of {name}")) < 4 * error, name
