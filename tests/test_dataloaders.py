import random
import uuid
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import elsewhere
from fastai.data.transforms import IndexSplitter, MaskSplitter, RandomSplitter
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.tabular.model import get_emb_sz
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import collabkit
from collabkit import Implicit, collab_learner, splits
from collabkit.data.interactions import Columns, Interactions
from collabkit.data.notices import CollabWarning
from collabkit.train import loader as loader_module
from collabkit.train.dataloaders import CollabDataLoaders
from collabkit.train.loader import Loader, auto_bs

NAMES = {"user_name": "user", "item_name": "item", "rating_name": "rating"}


def from_df(df, **kwargs) -> CollabDataLoaders:
    return CollabDataLoaders.from_df(df, **{**NAMES, "seed": 42, **kwargs})


def numbered(n: int, **kwargs) -> Loader:
    """A loader of `n` rows whose rating is the number of the row."""
    df = pd.DataFrame({"u": np.arange(n) % 7, "i": np.arange(n) % 5, "r": np.arange(n)})
    return Loader(Interactions.from_df(df, Columns("u", "i", "r")), **kwargs)


def rows_of(loader) -> list[list[int]]:
    """The numbers of the rows in each batch."""
    return [y.flatten().int().tolist() for _, y in loader]


def order_of(loader) -> list[int]:
    """The numbers of the rows in the order of an epoch."""
    return [row for batch in rows_of(loader) for row in batch]


def part(loader) -> list[tuple]:
    return list(loader.items.itertuples(index=False, name=None))


@pytest.fixture(autouse=True)
def no_warning_without_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollabWarning)
        yield


# --- the loader: each row once, an order of its own ------------------------------------------------------------------


@given(st.integers(1, 150), st.integers(1, 40), st.booleans(), st.integers(1, 4))
def test_each_row_exactly_once_an_epoch(n, bs, shuffle, chunk):
    loader = numbered(n, bs=bs, shuffle=shuffle)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_module, "CHUNK", chunk * bs)  # several chunks, as large data has
        batches = rows_of(loader)
    assert sorted(row for batch in batches for row in batch) == list(range(n))
    assert len(loader) == len(batches)
    sizes = [len(batch) for batch in batches]
    assert sizes[:-1] == [bs] * (len(sizes) - 1)
    assert sizes[-1] <= bs + 1 and (sizes[-1] > 1 or n == 1 or bs == 1)  # no lonely row beside full batches


@pytest.mark.parametrize(
    ("n", "bs", "sizes", "drop_sizes"),
    [
        (10, 5, [5, 5], [5, 5]),
        (11, 5, [5, 6], [5, 5]),  # one left-over row joins the last batch
        (12, 5, [5, 5, 2], [5, 5]),
        (3, 5, [3], [3]),  # fewer rows than a batch: one smaller batch
        (6, 5, [6], [5]),
        (1, 5, [1], [1]),
        (3, 1, [1, 1, 1], [1, 1, 1]),
    ],
)
def test_sizes_of_batches(n, bs, sizes, drop_sizes):
    loader, dropping = numbered(n, bs=bs), numbered(n, bs=bs, drop_last=True)
    assert [len(batch) for batch in rows_of(loader)] == sizes and len(loader) == len(sizes)
    assert [len(batch) for batch in rows_of(dropping)] == drop_sizes and len(dropping) == len(drop_sizes)
    assert loader.n == dropping.n == n


def test_without_shuffle_the_order_is_that_of_the_table():
    loader = numbered(9, bs=4)
    assert rows_of(loader) == rows_of(loader) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]


def test_the_permutation_depends_on_seed_and_epoch_alone():
    first, same, other = (numbered(50, bs=8, shuffle=True, seed=seed) for seed in (3, 3, 4))
    epochs = [order_of(first) for _ in range(3)]
    torch.manual_seed(99)
    assert [order_of(same) for _ in range(3)] == epochs
    assert len({tuple(epoch) for epoch in epochs}) == 3  # another order each epoch
    assert all(order_of(other) not in epochs for _ in range(3))
    wide = numbered(50, bs=21, shuffle=True, seed=3)
    assert [order_of(wide) for _ in range(3)] == epochs  # whatever the batch size


def test_the_permutation_is_uniform():
    loader = numbered(4, bs=4, shuffle=True)
    counts = np.zeros((4, 4))
    for _ in range(1200):
        counts[np.arange(4), order_of(loader)] += 1
    assert counts.min() > 240 and counts.max() < 360  # binomial(1200, 1/4): sd 15


def test_one_batch_is_the_first_of_the_next_epoch():
    loader = numbered(20, bs=6, shuffle=True)
    for _ in range(2):
        peek = loader.one_batch()[1].flatten().int().tolist()
        assert loader.one_batch()[1].flatten().int().tolist() == peek  # looking does not move on
        assert rows_of(loader)[0] == peek


def test_an_epoch_left_early_is_over():
    loader, whole = numbered(20, bs=6, shuffle=True), numbered(20, bs=6, shuffle=True)
    next(iter(loader))
    rows_of(whole)
    assert rows_of(loader) == rows_of(whole)


def test_batches_are_indices_and_ratings():
    x, y = numbered(9, bs=4).one_batch()
    assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.int64, torch.float32, (4, 2), (4, 1))
    assert x.tolist() == [[1, 1], [2, 2], [3, 3], [4, 4]]
    clicks = Interactions.from_df(pd.DataFrame({"u": [5, 6], "i": ["a", "b"]}), Columns("u", "i"))
    assert [[t.tolist() for t in batch] for batch in Loader(clicks)] == [[[[1, 1], [2, 2]]]]


def test_new_keeps_what_is_not_told():
    loader = numbered(20, bs=6, shuffle=True, drop_last=True, seed=5)
    rows_of(loader)
    same = loader.new()
    assert (same.bs, same.shuffle, same.drop_last, same.seed, same.epoch) == (6, True, True, 5, 1)
    assert rows_of(same) == rows_of(loader)
    other = loader.new(numbered(3).dataset, shuffle=False, bs=2)
    assert rows_of(other) == [[0, 1]] and rows_of(other.new(drop_last=False)) == [[0, 1, 2]]
    assert rows_of(other.new(get_idxs=lambda: torch.tensor([2, 0, 1]))) == [[2, 0, 1]]
    with pytest.raises(TypeError, match="batchsize"):
        loader.new(batchsize=3)


@pytest.mark.parametrize("bs", [0, -1, 2.5])
def test_bs_must_be_a_whole_number(bs):
    with pytest.raises(ValueError, match=f"bs must be a whole number of at least 1, got {bs}"):
        numbered(5, bs=bs)


def test_auto_bs(planted):
    sizes = [auto_bs(n) for n in (0, 1, 100, 20_000, 10**5, 10**6, 10**8)]
    assert sizes == sorted(sizes) and sizes[0] == 64 and sizes[-1] > 1000
    assert all(size & (size - 1) == 0 for size in sizes)  # powers of two
    assert from_df(planted, bs=None).train.bs == 64


# --- the dataloaders: what is in the parts ---------------------------------------------------------------------------


def test_the_parts_hold_the_rows_of_the_split(planted):
    dls = from_df(planted)
    train, valid = splits.random_split(0.2, seed=42)(planted)
    for loader, rows in ((dls.train, train), (dls.valid, valid)):
        assert part(loader) == list(planted[["user", "item", "rating"]].iloc[rows].itertuples(index=False, name=None))
    assert (len(dls.train.dataset), len(dls.valid.dataset)) == (320, 80)
    assert dls.train.shuffle and not dls.valid.shuffle and dls.valid.bs == 8192 and dls.train.bs == 64
    assert dls.train_ds is dls.train.dataset and dls.valid_ds is dls[1].dataset
    head, first, second = repr(dls).splitlines()
    assert head.startswith("CollabDataLoaders on ") and first == f"  train: {dls.train.dataset!r}, bs 64"
    assert second.startswith("  valid: Interactions: 80 rows, ") and second.endswith("bs 8,192")


def test_same_rows_as_fastais_random_splitter(planted):
    ours = from_df(planted)
    theirs = from_df(planted, splitter=RandomSplitter(seed=42))
    assert set(part(ours.valid)) == set(part(theirs.valid)) and set(part(ours.train)) == set(part(theirs.train))
    assert len(part(ours.valid)) == 80


def test_splitters_of_fastais_form(planted):
    dls = from_df(planted, splitter=IndexSplitter([7, 3]))
    assert part(dls.valid) == [tuple(planted[["user", "item", "rating"]].iloc[i]) for i in (7, 3)]
    late = (planted["time"] > 300).tolist()
    assert len(from_df(planted, splitter=MaskSplitter(late)).valid.dataset) == sum(late)
    with pytest.warns(CollabWarning, match="the splitter: left out 390 of 400 rows, .*: in neither part"):
        dls = from_df(planted, splitter=lambda df: (range(7), range(7, 10)))
    assert len(dls.classes["item"]) == 1 + planted["item"].iloc[:10].nunique()  # ids that are not used are not known
    for splitter, error, message in (
        (lambda df: (df["time"] < 300, df["time"] >= 300), TypeError, "got bool; use np.flatnonzero on a mask"),
        (lambda df: (range(400), []), ValueError, "the splitter leaves the validation part empty"),
        (lambda df: ([], range(400)), ValueError, "the splitter leaves the training part empty"),
        (lambda df: (range(300), range(200, 400)), ValueError, "gives 100 row positions twice"),
        (lambda df: (range(300), range(300, 401)), ValueError, "the table has 400 rows"),
        ("random", TypeError, "splitter must be one of collabkit.splits or a function of the table, got 'random'"),
    ):
        with pytest.raises(error, match=message):
            from_df(planted, splitter=splitter)


def test_our_splitters(planted):
    dls = from_df(planted, splitter=splits.leave_last_out(time_name="time"))
    last = planted.sort_values("time").groupby("user").tail(1)
    assert set(part(dls.valid)) == set(last[["user", "item", "rating"]].itertuples(index=False, name=None))
    assert dls.train.dataset.time is None
    timed = from_df(planted, splitter=splits.time_split(0.25), time_name="time")
    assert timed.train.dataset.time.max() < timed.valid.dataset.time.min() and len(timed.valid.dataset) == 100
    folds = [set(part(from_df(planted, splitter=s).valid)) for s in splits.k_fold(4, seed=0)]
    assert sum(map(len, folds)) == len(set.union(*folds)) == 400


def test_what_a_split_leaves_out_is_said(toy):
    toy["part"] = [0, 0, 1, 0, 0, 0, 1, 0, 1, 1]
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
    message = r"column_split\('part'\): valid: left out 3 of 4 rows, 2 of 3 users, 2 of 3 items: user or item without"
    with pytest.warns(CollabWarning, match=message):
        dls = CollabDataLoaders.from_df(toy, **names, splitter=splits.column_split("part", cold="drop"))
    assert part(dls.valid) == [("ann", "Dune", 1.0)]
    assert list(dls.classes["title"]) == ["#na#", "Alien", "Brazil", "Dune"]  # dropped rows are out of the vocabulary
    with pytest.warns(CollabWarning, match="1 of 4 users have no row in valid, as they have 1 or fewer"):
        CollabDataLoaders.from_df(toy, **names, splitter=splits.leave_last_out(time_name="time"))


def test_ids_only_in_the_validation_part_stay_in_the_vocabulary(toy):
    toy["part"] = [0, 0, 1, 0, 0, 0, 1, 0, 1, 0]
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
    dls = CollabDataLoaders.from_df(toy, **names, splitter=splits.column_split("part"))
    assert list(dls.classes["user"]) == ["#na#", "ann", "bob", "cat", "dan"]
    assert list(dls.classes["title"]) == ["#na#", "Alien", "Brazil", "Cabaret", "Dune", "Eraserhead"]
    assert part(dls.valid)[-1] == ("dan", "Eraserhead", 3.0)
    assert (dls.valid.one_batch()[0] > 0).all()


@pytest.mark.parametrize("order", ["item user rating", "rating item user", "time rating user item"])
def test_columns_in_any_order(planted, order):
    dls, usual = from_df(planted[order.split()]), from_df(planted)
    assert part(dls.valid) == part(usual.valid) and part(dls.train) == part(usual.train)
    assert list(dls.classes) == ["user", "item"]
    assert torch.equal(dls.one_batch()[0], usual.one_batch()[0])


def test_columns_default_to_the_first_three(planted):
    dls = CollabDataLoaders.from_df(planted, seed=42)
    assert part(dls.train) == part(from_df(planted).train)
    for df, error, message in (
        (planted[["user", "item"]], KeyError, r"needs a user, an item and a rating column; it has \['user', 'item'\]"),
        (planted.rename(columns={"item": "movie"}), KeyError, r"\['item'\] not found; the table has \['user', 'movie'"),
        (planted[:0], ValueError, r"empty \(0 rows"),
        (planted.to_dict(), TypeError, "expected a pandas DataFrame of interactions, got dict"),
    ):
        names = {} if len(getattr(df, "columns", [])) == 2 else NAMES
        with pytest.raises(error, match=message):
            CollabDataLoaders.from_df(df, **names)


def test_a_strange_index_does_not_matter(planted):
    odd = planted.set_axis(np.zeros(400, dtype=int))
    assert part(from_df(odd).valid) == part(from_df(planted).valid)


def test_from_tables_and_files(planted, tmp_path):
    planted.to_csv(tmp_path / "r.csv", index=False)
    planted.to_parquet(tmp_path / "r.parquet")
    expected = part(from_df(planted).valid)
    assert part(CollabDataLoaders.from_csv(tmp_path / "r.csv", seed=42, **NAMES).valid) == expected
    (tmp_path / "none.csv").touch()
    with pytest.raises(ValueError, match="none.csv cannot be read as CSV: No columns"):
        CollabDataLoaders.from_csv(tmp_path / "none.csv")
    assert part(CollabDataLoaders.from_parquet(tmp_path / "r.parquet", seed=42, **NAMES).valid) == expected
    dls = CollabDataLoaders.from_dfs(planted[:300], planted[300:], **NAMES, bs=32, seed=1)
    both = [*part(dls.train), *part(dls.valid)]
    assert both == list(planted[["user", "item", "rating"]].itertuples(index=False, name=None))
    assert dls.train.bs == 32 and len(dls.train.dataset) == 300 and dls.seed == 1
    with pytest.raises(ValueError, match="empty"):
        CollabDataLoaders.from_dfs(planted, planted[:0], **NAMES)
    with pytest.raises(KeyError, match="item"):
        CollabDataLoaders.from_dfs(planted, planted.rename(columns={"item": "x"}), **NAMES)


# --- every kind of id ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "as_id",
    [
        lambda n: f"id {n}",
        lambda n: uuid.UUID(int=int(n)),
        lambda n: pd.Timestamp("2020-01-01") + pd.Timedelta(int(n), unit="D"),
        lambda n: (int(n) // 10, str(n % 10)),
        lambda n: float(n),
        lambda n: 10**15 + n,
    ],
    ids=["str", "UUID", "timestamp", "tuple", "float", "int"],
)
def test_ids_of_every_kind(planted, as_id):
    named = planted.assign(user=[as_id(n) for n in planted["user"]], item=[as_id(n) for n in planted["item"]])
    dls, plain = from_df(named), from_df(planted)
    assert sorted(dls.classes["item"].ids) == sorted(set(named["item"]))
    assert dls.classes["user"].o2i[as_id(100)] == plain.classes["user"].o2i[100] == 1
    expected = [(as_id(user), as_id(item), rating) for user, item, rating in part(plain.valid)]
    assert part(dls.valid) == expected
    assert torch.equal(dls.one_batch()[0], plain.one_batch()[0])  # these ids sort like their numbers
    assert list(dls.show_batch(show=False)["item"]) == [as_id(n) for n in plain.show_batch(show=False)["item"]]


@pytest.mark.parametrize("dtype", ["Int64", "category", "int16", "uint64", "object", "string"])
def test_dtypes_of_ids(planted, dtype):
    dls, plain = from_df(planted.astype({"user": dtype, "item": dtype})), from_df(planted)
    assert torch.equal(dls.one_batch()[0], plain.one_batch()[0])
    first = "100" if dtype == "string" else 100
    assert dls.classes["user"].o2i[first] == 1 and dls.classes["user"][1] == first
    rows = dls.test_dl(pd.DataFrame({"user": [first], "item": ["1019" if dtype == "string" else 1019]}))
    assert next(iter(rows))[0].tolist() == [[1, 20]]


# --- what is wrong with the data, and what is said about it ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        ("rating", np.nan, ValueError, r"column 'rating' has 1 missing \(NaN\) rating\(s\), first at row 17"),
        ("rating", np.inf, ValueError, r"column 'rating' has 1 infinite rating\(s\), first at row 17"),
        ("rating", "five", TypeError, "ratings must be numbers; column 'rating' is"),
        ("user", None, ValueError, r"'user' has 1 missing \(NaN\) id\(s\), first at row 17"),
        ("item", None, ValueError, r"'item' has 1 missing \(NaN\) id\(s\), first at row 17"),
        ("item", "Alien", TypeError, "'item' mixes ids of types int, str; convert them to one"),
        ("user", np.inf, ValueError, "'user' has infinite ids"),
    ],
)
def test_bad_values_are_named_by_the_callers_row(planted, name, values, error, message):
    planted[name] = planted[name].astype(object if isinstance(values, str) else float)
    planted.loc[17, name] = values
    for splitter in (None, splits.leave_last_out(time_name="time")):
        with pytest.raises(error, match=message):
            from_df(planted, splitter=splitter)


def test_float_ids_that_merge_are_refused(planted):
    planted["item"] = (planted["item"] + 2**24).astype(np.float32)
    with pytest.raises(TypeError, match="'item' ids are float32 up to .*Read the column as int64 or str"):
        from_df(planted)


def test_ratings_outside_y_range(planted):
    with pytest.raises(ValueError, match=r"training ratings lie outside y_range=.*they run from 1 to 5. Widen"):
        collab_learner(from_df(planted), y_range=(1.5, 4))
    planted.loc[splits.random_split(0.2, seed=42)(planted).valid[5], "rating"] = 9.0
    with pytest.raises(ValueError, match=r"1 validation ratings lie outside y_range="):
        collab_learner(from_df(planted), y_range=(0, 5.5))


def test_duplicates_are_kept_and_counted(planted):
    twice = pd.concat([planted, planted[:5], planted[:2]])
    with pytest.warns(CollabWarning, match=r"7 of 407 rows repeat a \(user, item\) pair; all are kept") as caught:
        dls = from_df(twice)
    assert [w.filename for w in caught] == [__file__]
    assert len(dls.train.dataset) + len(dls.valid.dataset) == 407


@pytest.mark.parametrize("valid_pct", [1, 1.0, -0.1])
def test_valid_pct_beyond_a_share(planted, valid_pct):
    with pytest.raises(ValueError, match="valid_pct must lie strictly between 0 and 1"):
        from_df(planted, valid_pct=valid_pct)


def test_too_few_rows_to_split(planted):
    for n in (1, 4):
        with pytest.raises(ValueError, match=f"leaves the validation part empty .{n} training and 0 validation of {n}"):
            from_df(planted[:n])


def test_one_user(planted):
    dls = from_df(planted[planted["user"] == planted["user"].iloc[0]])
    assert len(dls.classes["user"]) == 2 and set(dls.one_batch()[0][:, 0].tolist()) == {1}


@pytest.mark.parametrize("argument", ["valid_idx", "batchsize", "batch_size", "user", "val_pct", "time_column"])
def test_unknown_arguments_raise(planted, argument):
    for make in (lambda **kw: from_df(planted, **kw), lambda **kw: CollabDataLoaders.from_dfs(planted, planted, **kw)):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{argument}'"):
            make(**{argument: 1})


# --- randomness ------------------------------------------------------------------------------------------------------


def global_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def test_global_generators_stay_as_they_were(planted):
    with torch.random.fork_rng():
        torch.manual_seed(987)  # a state that nobody else sets
        before = global_states()
        dls = from_df(planted)
        list(dls.train), dls.one_batch(), list(dls.valid)
        from_df(planted, splitter=next(splits.k_fold(3, seed=1)))
        assert global_states() == before


def test_seeds(planted):
    one, same, other = from_df(planted, seed=1), from_df(planted, seed=1), from_df(planted, seed=2)
    assert part(one.valid) == part(same.valid) != part(other.valid)
    assert [x.tolist() for x, _ in one.train] == [x.tolist() for x, _ in same.train]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        free, again = from_df(planted, seed=None), from_df(planted, seed=None)
        assert part(free.valid) != part(again.valid) and free.seed != again.seed
        torch.manual_seed(0)
        replay = from_df(planted, seed=None)
    assert part(replay.valid) == part(free.valid) and replay.seed == free.seed


SCRIPT = """
import hashlib
from collabkit import CollabDataLoaders, collab_learner, datasets
ratings = datasets.synthetic(n_users=60, n_items=50, n_ratings=900, min_events=5, seed=1).ratings
dls = CollabDataLoaders.from_df(ratings, item_name='title', seed=42)
digest = hashlib.sha256(''.join(dls.classes['title'].ids).encode())
for x, y in dls.train:
    digest.update(x.numpy().tobytes() + y.numpy().tobytes())
learn = collab_learner(dls, n_factors=4, y_range=(0, 5.5))
with learn.no_bar(), learn.no_logging():
    learn.fit(1, 1e-2)
for value in learn.model.state_dict().values():
    digest.update(value.numpy().tobytes())
print(digest.hexdigest())
"""


def written(tmp_path, dates, sep=","):
    lines = [sep.join(["user", "item", "rating", "when"])]
    lines += [sep.join([str(j % 3), "ab"[j % 2], str(j % 5 + 1), date]) for j, date in enumerate(dates)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t.csv"


def read_times(file):
    names = {"user_name": "user", "item_name": "item", "rating_name": "rating", "time_name": "when"}
    dls = CollabDataLoaders.from_csv(file, **names, valid_pct=0)
    return sorted(pd.to_datetime(dls.data.train.time.numpy()).strftime("%Y-%m-%d"))


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("dates", "days"),
    [
        (["2025-03-07", "2025-04-01"], ["2025-03-07", "2025-04-01"]),
        (["07.03.2025 10:00", "13.03.2025 11:30"], ["2025-03-07", "2025-03-13"]),
        (["07/03/2025", "13/03/2025"], ["2025-03-07", "2025-03-13"]),
        (["03/07/2025", "03/13/2025"], ["2025-03-07", "2025-03-13"]),
        (["7-3-25", "13-3-25"], ["2025-03-07", "2025-03-13"]),
    ],
)
def test_dates_of_a_csv_are_what_they_say(tmp_path, dates, days, sep):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if sep != "," else "error", CollabWarning)  # it says so
        assert read_times(written(tmp_path, dates, sep)) == days


def test_dates_that_may_be_two_are_refused_or_said(tmp_path):
    with pytest.warns(CollabWarning, match=r"'when' are read with the day first, .* '07.03.2025'"):
        assert read_times(written(tmp_path, ["07.03.2025", "01.04.2025"])) == ["2025-03-07", "2025-04-01"]
    for date in ("07/03/2025", "07-03-2025"):
        with pytest.raises(ValueError, match=f"begin with the day or with the month, e.g. '{date}': .* as 2026-01-31"):
            read_times(written(tmp_path, [date]))
    with pytest.raises(ValueError, match="times that cannot be read, 1 of them, e.g. 'soon': write them as"):
        read_times(written(tmp_path, ["2025-03-07", "soon"]))


def test_other_separators_are_said_and_an_empty_file_is_named(tmp_path):
    with pytest.warns(CollabWarning, match="is read as a table separated by ';', as its header has no comma"):
        read_times(written(tmp_path, ["2025-03-07"], ";"))
    (tmp_path / "none.csv").write_text("")
    with pytest.raises(ValueError, match="none.csv cannot be read as CSV: No columns"):
        CollabDataLoaders.from_csv(tmp_path / "none.csv")


def test_a_misspelt_column_is_found():
    df = pd.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "Menge": [1, 2, 3]})
    with pytest.raises(KeyError, match=r"\['Mege'\] not found \(did you mean 'Menge'\?\)"):
        CollabDataLoaders.from_df(df, feedback=Implicit(counts="Mege"))


def test_a_random_split_of_histories_is_said(toy):
    names = {"user_name": "user", "item_name": "title", "time_name": "time", "feedback": "implicit", "seed": 0}
    with pytest.warns(CollabWarning, match="rows are held out at random, so a model trains on events later"):
        CollabDataLoaders.from_df(toy, **names, history=5)


def test_two_processes_give_one_result(capsys):
    there = elsewhere(SCRIPT)
    exec(SCRIPT, {})
    here = capsys.readouterr().out.strip()
    assert len(here) == 64 and there.stdout.strip() == here


# --- fastai's side ---------------------------------------------------------------------------------------------------


class Dot(nn.Module):
    """A hand-written model of a batch `x` `(bs, 2)` that returns `(bs,)`, or `(bs, 1)` with `column=True`."""

    def __init__(self, dls, column: bool):
        super().__init__()
        torch.manual_seed(0)
        n_users, n_items = (len(vocab) for vocab in dls.classes.values())
        self.u, self.i, self.column = nn.Embedding(n_users, 3), nn.Embedding(n_items, 3), column
        self.mean = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        score = self.mean + (self.u(x[:, 0]) * self.i(x[:, 1])).sum(1, keepdim=self.column)
        assert score.shape == ((len(x), 1) if self.column else (len(x),))
        return score


def plain_learner(dls, column=False, **kwargs) -> Learner:
    learn = Learner(dls, Dot(dls, column), MSELossFlat(), lr=5e-2, **kwargs)
    learn.remove_cb(learn.progress)
    learn.logger = lambda *_: None
    return learn


def test_hand_written_models_train_with_a_plain_learner(planted):
    losses = {}
    for column in (False, True):
        with torch.random.fork_rng():
            learn = plain_learner(from_df(planted), column)
            learn.fit(12)
        losses[column] = [values[:2] for values in learn.recorder.values]
    assert losses[False] == losses[True] and len(losses[True]) == 12
    start, end = losses[False][0][0], losses[False][-1][0]
    assert 0.05 < end < 0.5 * start  # it learns; and a broadcast (bs, bs) loss would stay near the variance


@pytest.mark.parametrize(("n", "n_batches"), [(12, 1), (81, 1), (82, 2)])
def test_fewer_rows_than_a_batch_train_one_smaller_batch(planted, n, n_batches):
    dls = from_df(planted[:n])  # 10, 65 and 66 training rows at bs 64
    with torch.random.fork_rng():
        learn = plain_learner(dls)
        before = learn.model.u.weight.detach().clone()
        learn.fit(1)
    assert len(dls.train) == n_batches == len(learn.recorder.losses)
    moved = (learn.model.u.weight != before).any(1).nonzero().flatten().tolist()
    assert set(moved) >= set(dls.train.dataset.user_idx.tolist())


def test_get_preds_are_in_the_order_of_the_rows(planted):
    dls = from_df(planted, bs=50, drop_last=True)
    learn = plain_learner(dls)
    with torch.no_grad():
        for loader in (dls.train, dls.valid):
            data = loader.dataset
            expected = learn.model(torch.stack([data.user_idx, data.item_idx], 1))
            preds, targets = learn.get_preds(dl=loader)  # the training rows too, though shuffled and bs does not fit
            assert torch.allclose(preds, expected) and torch.equal(targets.flatten(), data.rating)
        assert torch.equal(learn.get_preds(ds_idx=0)[0], learn.get_preds(dl=dls.train)[0])
        assert torch.equal(learn.get_preds()[0], learn.get_preds(dl=dls.valid)[0])


def test_test_dl(planted):
    dls = from_df(planted)
    new = planted[["item", "rating", "user"]].iloc[[3, 1, 2]]
    loader = dls.test_dl(new)
    (batch,) = list(loader)
    assert len(batch) == 1 and loader.bs == 8192
    assert loader.items.to_dict("list") == new[["user", "item"]].to_dict("list")
    x, y = next(iter(dls.test_dl(new, with_labels=True)))
    assert torch.equal(x, batch[0]) and y.flatten().tolist() == new["rating"].tolist()
    assert len(dls.test_dl(planted, bs=100)) == 4
    preds, targets = plain_learner(dls).get_preds(dl=loader)
    assert preds.shape == (3,) and targets is None
    one, _ = plain_learner(dls, column=True).get_preds(dl=dls.test_dl(new[:1]))  # fastai unpacks a lone (1,)
    assert torch.allclose(one, preds[:1, None])
    with pytest.warns(CollabWarning, match="1 of 3 rows have 'user' ids that the model does not know"):
        unknown = dls.test_dl(new.assign(user=[100, 999, 101]))
    assert next(iter(unknown))[0][:, 0].tolist() == [1, 0, 2]
    with pytest.raises(TypeError, match="'user' ids are of type number .*received type str"):
        dls.test_dl(new.assign(user=["100", "101", "102"]))
    for df, kwargs, error, message in (
        (new[["item"]], {}, KeyError, r"\['user'\] not found"),
        (new[["item", "user"]], {"with_labels": True}, KeyError, r"\['rating'\] not found"),
        (new[:0], {}, ValueError, "empty"),
        (new, {"batchsize": 3}, TypeError, "batchsize"),
    ):
        with pytest.raises(error, match=message):
            dls.test_dl(df, **kwargs)


def test_classes_and_embedding_sizes(toy):
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
    dls = CollabDataLoaders.from_df(toy, **names, seed=42)
    assert dls.classes["title"][3] == "Cabaret" and dls.classes["title"].o2i["Brazil"] == 2
    assert [len(vocab) for vocab in dls.classes.values()] == [5, 6] and dls.n_inp == 1
    assert get_emb_sz(dls) == [(5, 4), (6, 4)]  # min(600, round(1.6 * n ** .56))
    assert get_emb_sz(dls, {"title": 7}) == [(5, 4), (6, 7)]


def test_show_batch_shows_the_callers_ids(toy, capsys, monkeypatch):
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
    dls = CollabDataLoaders.from_df(toy, **names, seed=42)
    shown = dls.show_batch(max_n=5, show=False)
    assert list(shown) == ["user", "title", "rating"] and len(shown) == 5
    assert set(shown.itertuples(index=False, name=None)) <= set(part(dls.train))
    dls.show_batch(max_n=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [list(shown), *shown[:3].astype(str).to_numpy().tolist()]
    displayed = []
    monkeypatch.setattr(loader_module, "IN_NOTEBOOK", True)
    monkeypatch.setattr(loader_module, "display_df", displayed.append)
    dls.show_batch(max_n=3)
    assert len(displayed) == 1 and displayed[0].equals(shown[:3])


def test_show_results_shows_ids_ratings_and_predictions(planted, capsys):
    dls = from_df(planted)
    learn = plain_learner(dls)
    learn.show_results(shuffle=False, max_n=4)
    lines = capsys.readouterr().out.splitlines()
    b = dls.valid.one_batch()
    with torch.no_grad():
        out = learn.model(b[0])
    shown = dls.valid.show_results(b, out, max_n=4, show=False)
    assert shown["rating_pred"].tolist() == pytest.approx(out[:4].tolist())
    assert shown[["user", "item", "rating"]].equals(dls.valid.items[:4].astype({"rating": np.float32}))
    assert dls.valid.show_results(b, (out[:, None],), max_n=4, show=False).equals(shown)
    assert lines[0].split() == list(shown) and len(lines) == 5
    assert [float(cell) for cell in lines[1].split()] == pytest.approx(shown.iloc[0].tolist(), abs=1e-5)


def test_moving_to_a_device_and_back(planted):
    dls = from_df(planted, device="cpu")
    assert dls.device == torch.device("cpu") and dls.one_batch()[0].device.type == "cpu"
    dls.to(torch.device("meta"))
    assert dls.train.batches.users.device.type == dls.valid.batches.rating.device.type == "meta"
    assert dls.cpu().one_batch()[0].tolist() == from_df(planted).one_batch()[0].tolist()


# --- real data -------------------------------------------------------------------------------------------------------


def test_movielens_100k(movielens_dir):
    ratings = collabkit.datasets.movielens("100k", movielens_dir).ratings
    dls = CollabDataLoaders.from_df(ratings, item_name="title", seed=42, bs=512)
    assert len(dls.train.dataset) + len(dls.valid.dataset) == 100_000 and len(dls.classes["user"]) == 944
    seen = torch.cat([x for x, _ in dls.train])
    assert len(seen) == 80_000 and sorted(len(x) for x, _ in dls.train)[0] == 80_000 % 512


def test_dataloaders_of_loaders_alone_are_enough_for_a_learner():
    df = pd.DataFrame(
        {
            "user": [u for u in range(20) for _ in range(5)],
            "item": [i for u in range(20) for i in range(u % 3, u % 3 + 5)],
        }
    )
    dls = CollabDataLoaders.from_df(df, feedback="implicit", seed=0, bs=16)
    wide = CollabDataLoaders(dls.train.new(n_neg=2), dls.valid.new(n_neg=2), path=dls.path, device=dls.device)
    learn = collab_learner(wide, 4, loss_func="bce", seed=0)
    learn.fit(1)
    assert len(learn.recommend(df["user"][0], k=2)) == 2 and "CollabDataLoaders" in repr(wide)
