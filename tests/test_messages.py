"""Errors that a newcomer meets: they say what was wrong, what was received and what to do."""

import re
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from helpers import make_dls, ratings, silence, trained

from collabkit import (
    EASE,
    CollabDataLoaders,
    CollabInterpretation,
    CollabWarning,
    Confidence,
    ContentKNN,
    Dataset,
    Features,
    GRURec,
    HybridKNN,
    Implicit,
    Interactions,
    ItemKNN,
    Light,
    NextItem,
    Pipeline,
    Popularity,
    Recommender,
    SampledCandidates,
    SASRec,
    auto_fit,
    backtest,
    collab_learner,
    compare,
    cross_validate,
    datasets,
    filters,
    load_learner,
    splits,
    tune,
)
from collabkit.data.checks import one_of, shown, whole
from collabkit.evaluate.new_users import NewUserRows
from collabkit.evaluate.task import held_out

NAMES = {"user_name": "user", "item_name": "title"}
TABLE = "expected a pandas DataFrame of interactions, got"


@lru_cache
def events(**options):
    dls = CollabDataLoaders.from_df(ratings(), **NAMES, feedback=Implicit(**options), seed=0, bs=256)
    learn = silence(collab_learner(dls, n_factors=4))
    learn.fit_als(1, reg=0.1, unobserved_weight=0.1)
    return learn


@lru_cache
def ordered():
    split = splits.leave_last_out(time_name="timestamp")
    options = {"time_name": "timestamp", "history": 10, "splitter": split, "feedback": "implicit", "seed": 0}
    return CollabDataLoaders.from_df(ratings(), **NAMES, **options)


def strangers(n=60):
    """Rows of users whom no model knows."""
    df = ratings()
    return df[df["user"] <= n].assign(user=lambda df: df["user"] + 10_000)


def refuses(call, error, message):
    with pytest.raises(error, match=message) as told:
        call()
    assert "np.int64(" not in str(told.value) and "object has no attribute" not in str(told.value)


# --- what is shown, and suggestions ----------------------------------------------------------------------------------


def test_values_are_shown_as_in_python_and_not_at_length():
    assert shown(np.int64(1)) == "1" and shown(np.float32(0.5)) == "0.5" and shown("it's") == '"it\'s"'
    assert shown(ratings()) == "a value of type DataFrame" and shown(make_dls()) == "a value of type CollabDataLoaders"
    assert len(shown("x" * 500)) < 120 and len(shown(list(range(500)))) < 120
    refuses(lambda: whole("k", np.int64(-1)), ValueError, r"got -1$")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("implict", r"must be 'explicit' or 'implicit', got 'implict' \(did you mean 'implicit'\?\)"),
        (np.int64(3), "got 3$"),
        (["implicit"], r"got \['implicit'\]$"),
        (pd.DataFrame({"a": [1]}), "got a value of type DataFrame$"),
    ],
)
def test_a_choice(given, message):
    refuses(lambda: one_of("feedback", given, ("explicit", "implicit")), ValueError, message)
    assert one_of("feedback", "implicit", ("explicit", "implicit")) == "implicit"
    assert one_of("start", None, (None, "als")) is None


@pytest.mark.parametrize(
    ("call", "guess"),
    [
        (lambda: make_dls(feedback="implict"), "implicit"),
        (lambda: make_dls(feedback="implicit", rating_name=None, negatives="unifrom"), "uniform"),
        (lambda: make_dls(weights="invers_user"), "inverse_user"),
        (lambda: Implicit(repeats="frist"), "first"),
        (lambda: splits.random_split(cold="dorp"), "drop"),
        (lambda: collab_learner(make_dls(), metrics=["rmse"]), "RMSE"),
        (lambda: events().evaluate(metrics=["ndcg@5"]), "NDCG"),
        (lambda: events().evaluate(by="user_activty"), "user_activity"),
        (lambda: events().recommend(1, unknown="defualt"), "default"),
        (lambda: collab_learner(events().dls, loss_func="sampled_sofmax"), "sampled_softmax"),
        (lambda: datasets.movielens("latest-smal"), "latest-small"),
        (lambda: collab_learner(make_dls(), model="TwoTowr"), "TwoTower"),
    ],
)
def test_a_misspelt_word_is_guessed(call, guess):
    refuses(call, (ValueError, TypeError, KeyError), rf"did you mean '{guess}'\?")


# --- wrong types of main arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["TwoTower", "EASE", 7, ["TwoTower"]])
def test_a_model_is_a_class(given):
    name = f".*give the class, not its name, model={given}" if isinstance(given, str) else ""
    message = "model must be a class such as TwoTower, or an instance, got " + re.escape(repr(given)) + name
    refuses(lambda: collab_learner(make_dls(), model=given), TypeError, message)
    refuses(lambda: collab_learner(events().dls, model=given), TypeError, message)
    if isinstance(given, str):
        pytest.importorskip("optuna")
        refuses(lambda: tune(events().dls, {"model": [given], "n_factors": [4, 8]}), TypeError, message)


def test_closed_forms_are_not_for_a_learner():
    for model in (EASE, EASE()):
        refuses(lambda m=model: collab_learner(events().dls, model=m), TypeError, r"in one go: EASE\(\).fit\(dls\)")


@pytest.mark.parametrize("given", ["EASE", "a.csv", None, 5])
def test_models_that_are_compared(given):
    refuses(lambda: compare([given]), TypeError, "expected learners, Recommenders and closed-form models, got ")
    refuses(lambda: compare(given), TypeError, r"compare takes a list of models, e.g. compare\(\[learn, Popularity\(\)")
    refuses(lambda: cross_validate(events().dls, given), TypeError, "expected closed-form models, trained learners")
    if isinstance(given, str):
        refuses(lambda: compare([given]), TypeError, f"got str '{given}': give the model itself, not its name")


def test_compare_takes_one_list_or_a_dict():
    learn = events()
    refuses(lambda: compare(learn), TypeError, "compare takes a list of models, .*got CollabLearner")
    refuses(lambda: compare(EASE), TypeError, r"got the class EASE: write EASE\(\)")
    models = {"squares": learn, "most met": Popularity()}
    table = compare(models, metrics="NDCG@10", n_boot=10)
    assert table.index.get_level_values("model").tolist() == ["squares", "most met"]
    expected = compare([learn, Popularity()], names=list(models), metrics="NDCG@10", n_boot=10)
    pd.testing.assert_frame_equal(table, expected)
    refuses(lambda: compare(models, names=["a", "b"]), TypeError, "leave names= out")


@pytest.mark.parametrize(
    ("given", "make"),
    [(pd.DataFrame({"user": [1]}), r"from_df\(df\)"), ("r.csv", r"from_csv\('r.csv'\)"), (None, r"from_df\(df\)")],
)
def test_dataloaders_are_made_from_a_table(given, make):
    for what, call in (("collab_learner", collab_learner), ("auto_fit", auto_fit)):
        message = f"{what} takes CollabDataLoaders, got {type(given).__name__}: make them with CollabDataLoaders.{make}"
        refuses(lambda call=call: call(given), TypeError, message)


@pytest.mark.parametrize(
    ("given", "how"),
    [
        ("r.csv", r"str 'r.csv': read a file first, e.g. pd.read_csv"),
        ([1, 2], r"list; pd.DataFrame\(...\) makes"),
        (5, "int"),
    ],
)
def test_a_table_is_a_table(given, how):
    learn = trained()
    calls = [
        lambda: CollabDataLoaders.from_df(given),
        lambda: CollabDataLoaders.from_dfs(given, ratings()),
        lambda: splits.random_split()(given),
        lambda: filters.drop_duplicates(given),
        lambda: learn.dls.test_dl(given),
        lambda: backtest(lambda dls: EASE(), given, time_name="timestamp"),
    ]
    for call in calls:
        refuses(call, TypeError, f"{TABLE} {how}")
    for call in (lambda: learn.update(given), lambda: learn.fold_in(given), lambda: learn.recommend(recent=given)):
        refuses(call, TypeError, f"a DataFrame with columns .* got {how}")
    refuses(lambda: CollabDataLoaders.from_dfs(ratings(), given), TypeError, f"valid must be a DataFrame .* got {how}")
    refuses(lambda: make_dls(users=given), TypeError, f"must be a pandas DataFrame, got {how}")
    if isinstance(given, str):
        refuses(lambda: cross_validate(given, EASE()), TypeError, f"expected CollabDataLoaders or a table, got {how}")


@pytest.mark.parametrize("call", [Recommender.load, load_learner, Light.load, datasets.read_interactions])
def test_a_folder_is_named_by_its_path(call, tmp_path):
    for given in (None, 5, events()):
        refuses(lambda given=given: call(given), TypeError, "is named by its path, a text or pathlib.Path; got")
    refuses(lambda: events().export(5), TypeError, "is named by its path")
    if call is not datasets.read_interactions:
        (tmp_path / "a.csv").write_text("user\n")
        refuses(lambda: call(tmp_path / "a.csv"), Exception, "is a file; an artefact is the folder")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: splits.random_split("0.2"), ValueError, "valid_pct must lie strictly between 0 and 1, got '0.2'"),
        (lambda: splits.random_split(ratings()), ValueError, "got a value of type DataFrame"),
        (lambda: splits.time_split("0.2"), TypeError, "give a number such as 0.2"),
        (lambda: splits.cold_users("0.1"), ValueError, "frac must lie strictly between 0 and 1, got '0.1'"),
        (lambda: splits.cold_items(ratings()), ValueError, "frac must lie strictly"),
        (lambda: splits.k_fold("5"), ValueError, "n_folds must be a whole number of at least 1, got '5'"),
        (lambda: splits.rolling_windows("7D"), ValueError, "n must be a whole number of at least 1, got '7D'"),
        (lambda: splits.column_split(ratings()), TypeError, "takes the name of a column"),
        (lambda: make_dls(valid_pct="0.2"), ValueError, "valid_pct must lie strictly between 0 and 1, got '0.2'"),
        (lambda: make_dls(seed="a"), TypeError, "seed must be a whole number, got 'a'"),
        (lambda: Implicit(n_neg="5"), ValueError, "n_neg must be a whole number of at least 1, got '5'"),
        (lambda: Implicit(threshold="5"), ValueError, "threshold must be a finite number, got '5'"),
        (lambda: SampledCandidates(99, "x"), TypeError, "seed must be a whole number, got 'x'"),
        (lambda: collab_learner(make_dls(), n_factors="50"), ValueError, "n_factors must be a whole number .*got '50'"),
        (lambda: collab_learner(make_dls(), use_nn=True, layers=32), ValueError, "layers must be a list of widths"),
        (lambda: collab_learner(make_dls(), use_nn=True, layers="64"), ValueError, "layers must be a list .* got '64'"),
        (lambda: collab_learner(make_dls(), use_nn=True, emb_szs=8), ValueError, "emb_szs needs a user and an item"),
        (lambda: collab_learner(events().dls, use_nn=True, layers=32), ValueError, "layers must be a list of widths"),
        (lambda: collab_learner(make_dls(), model=SASRec), ValueError, "learns from events: .*feedback='implicit'"),
        (lambda: events().evaluate(n_boot="x"), ValueError, "n_boot must be a whole number"),
        (lambda: events().evaluate(metrics=5), TypeError, "metrics must be names or functions"),
        (lambda: events().evaluate(metrics=[]), ValueError, "there is none in metrics; there are HitRate"),
        (lambda: events().evaluate(make_dls()), ValueError, "on must be 'valid' or a DataFrame, got a value of type"),
        (lambda: events().evaluate_fold_in(n_given="x"), ValueError, "n_given must hold whole numbers"),
        (
            lambda: events().recommend(ratings()),
            TypeError,
            r"must be one column, got a DataFrame: pass .* df\['user'\]",
        ),
        (lambda: ContentKNN("genre"), TypeError, "features must be the items' Features"),
        (lambda: HybridKNN("genre"), TypeError, "features must be the items' Features"),
        (lambda: Features.from_df(ratings(), "user"), TypeError, "vocab must be the Vocab of the ids"),
        (lambda: Interactions.from_df(ratings(), "user"), TypeError, r"columns must be Columns\('user', 'item'"),
        (lambda: Dataset(ratings()), TypeError, "train must be Interactions, .*got DataFrame"),
        (lambda: EASE().fit(ratings()), TypeError, "make them with CollabDataLoaders.from_df"),
        (lambda: Recommender("x", make_dls()), TypeError, "takes a model and its data, got 'x'"),
        (lambda: make_dls().audit("x"), ValueError, "k must be a whole number"),
        (lambda: events().evaluate(k=np.int64(0)), ValueError, "k must be at least 1, got 0$"),
        (lambda: make_dls(context_features=5), TypeError, "context_features must be names of columns.*got 5"),
        (lambda: make_dls(user_name=["user"]), TypeError, r"e.g. user_name='user', got \['user'\]"),
        (lambda: make_dls(user_name=ratings()["user"]), TypeError, "user_name='user', got a value of type Series"),
        (lambda: collab_learner(make_dls(), config=5), TypeError, "config must be a dict of options"),
        (lambda: backtest(EASE(), ratings(), time_name="timestamp"), TypeError, "fit must be a function.* got EASE"),
        (lambda: filters.sample_users(ratings(), "0.5"), ValueError, r"frac must lie in \(0, 1\], got '0.5'"),
        (lambda: ItemKNN(shrink="x"), ValueError, "shrink must be a finite number, got 'x'"),
        (lambda: Confidence(b="x"), ValueError, r"b must lie in \[0, 1\], got 'x'"),
        (lambda: Pipeline(EASE().fit(events().dls), events(), weight="x"), ValueError, r"weight must lie in \[0, 1\]"),
        (lambda: events().recommender.use_index(5), ValueError, "an index is 'auto', .* got 5"),
    ],
)
def test_wrong_types(call, error, message):
    refuses(call, error, message)


def test_options_of_fits_are_checked_before_they_begin():
    learn = events()
    for given, message in (
        ({"reg": "0.1"}, "^reg must be a number above 0, got '0.1'"),
        ({"unobserved_weight": "x"}, "^unobserved_weight must be a number above 0"),
        ({"nu": "1"}, "^nu must be a finite number"),
        ({"n_cg": 1.5}, "^n_cg must be a whole number"),
    ):
        refuses(lambda given=given: learn.fit_als(2, **given), ValueError, message)
    for call, message in (
        (lambda: learn.fit_als(regularization=0.1), r"fit_als has no argument 'regularization' \(did you mean 'reg'"),
        (lambda: learn.fit_one_cycle(epochs=3), r"fit_one_cycle has no argument 'epochs' \(did you mean 'n_epoch'"),
        (
            lambda: learn.fit_one_cycle(1, lr=0.1),
            r"no argument 'lr' \(did you mean 'lr_max'\?\); it takes n_epoch, lr_max",
        ),
        (lambda: learn.fit_one_cycle(), "fit_one_cycle: missing a required argument: 'n_epoch'"),
    ):
        refuses(call, TypeError, message)


def test_a_file_with_options_of_pandas(tmp_path):
    ratings().to_csv(tmp_path / "r.csv", index=False, sep=";")
    read = lambda **given: CollabDataLoaders.from_csv(tmp_path / "r.csv", **NAMES, **given)  # noqa: E731
    with pytest.warns(CollabWarning, match="separated by ';'"):
        assert len(read(valid_pct=0).train.dataset) == len(ratings())
    for given in ("sep", "delimiter"):
        refuses(lambda given=given: read(**{given: ";"}), TypeError, rf"finds the separator by itself, .*{given}=...\)")
    refuses(
        lambda: read(encoding="latin-1"), TypeError, r"no options of pd.read_csv, got encoding: .*from_df\(pd.read_csv"
    )
    refuses(lambda: read(user="user"), TypeError, r"unexpected keyword argument 'user' \(did you mean 'user_name'")
    refuses(lambda: CollabDataLoaders.from_csv(ratings()), TypeError, "got a DataFrame: pass it to from_df")


def test_predict_takes_ids_and_not_a_row():
    learn, row = trained(), ratings().iloc[0]
    for given in (row, ratings(), row["user"]):
        refuses(
            lambda given=given: learn.predict(given), TypeError, "predict takes users and items, e.g. .* as in fastai"
        )
    assert isinstance(learn.predict(row["user"], row["title"]), float)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda interp: interp.item_bias("x"), "n must be a whole number of at least 1, got 'x'"),
        (lambda interp: interp.user_bias(-1), "n must be a whole number of at least 1, got -1"),
        (lambda interp: interp.plot_bias("x"), "n must be a whole number"),
        (lambda interp: interp.plot_bias(side="items"), r"side must be 'user' or 'item', got 'items' \(did you mean"),
        (lambda interp: interp.pca("3"), "n_components must lie in .*, got '3'"),
        (lambda interp: interp.plot_pca("50"), "n must be a whole number"),
        (lambda interp: interp.plot_pca(dims=1), r"dims must be two components .*, e.g. \(1, 2\), got 1"),
        (lambda interp: interp.factor_examples(0), "component must be a whole number of at least 1, got 0"),
        (lambda interp: interp.factor_examples(1, "x"), "n must be a whole number"),
        (lambda interp: interp.top_losses("x"), "n must be a whole number"),
    ],
)
def test_arguments_of_the_interpretation(call, message):
    interp = CollabInterpretation.from_learner(trained())
    refuses(lambda: call(interp), ValueError, message)


def test_an_interpretation_is_of_a_learner():
    for given in (trained().dls, trained().model, None):
        refuses(
            lambda given=given: CollabInterpretation.from_learner(given),
            TypeError,
            f"CollabInterpretation takes a trained learner or a Recommender, got {type(given).__name__}",
        )
    assert len(CollabInterpretation(trained().recommender).item_bias(3)) == 3


# --- columns, histories and ids --------------------------------------------------------------------------------------


def test_columns_of_a_model_are_to_be_renamed():
    learn, odd = trained(), ratings().rename(columns={"user": "reader"})
    message = (
        r"\['user'\] not found; .*The model's columns are \['user', 'title'.*rename\(columns=\{'reader': 'user'\}\)"
    )
    for call in (
        lambda: learn.evaluate(on=odd),
        lambda: learn.update(odd),
        lambda: learn.evaluate_fold_in(on=odd),
        lambda: compare([learn], on=odd, metrics="NDCG@10"),
        lambda: learn.dls.test_dl(odd),
        lambda: learn.recommend(1, items=odd),
    ):
        with pytest.raises(KeyError, match=message) as told:
            call()
        assert "user_name=" not in str(told.value)
    for call in (lambda: learn.fold_in(odd), lambda: learn.recommend(history=odd), lambda: learn.recommend(recent=odd)):
        refuses(call, KeyError, r"lacks the column\(s\) \['user'\] of the model; .*rename yours")
    refuses(lambda: make_dls(odd), KeyError, "Name them with user_name=")


@pytest.mark.parametrize("light", [False, True])
def test_counts_of_nothing_in_a_history(light, tmp_path):
    rec = events(counts="rating").recommender
    rec = Light.load(rec.save(tmp_path / "model")) if light else rec
    title = ratings()["title"].iloc[0]
    for count in (-2, 0):
        with pytest.warns(CollabWarning, match="count of 0 or less"):
            refuses(lambda n=count: rec.recommend(history={title: n}), ValueError, "no item with a count above 0")


def test_many_histories_are_a_table():
    title = ratings()["title"].iloc[0]
    for learn in (events(), trained()):
        for given in ([[title], [title]], [{title: 4}, {title: 5}], ([title],)):
            message = (
                r"history= is of one user, got a list of (list|dict)s: .*a DataFrame with columns \['user', 'title'"
            )
            refuses(lambda given=given, learn=learn: learn.recommend(history=given), TypeError, message)
    refuses(
        lambda: events().recommend(history=5), TypeError, r"must be a list of items, got 5; for one item pass \[5\]"
    )


def test_an_unknown_user_is_told_of_defaults_and_histories():
    for given in (-1, [1, -1]):
        refuses(
            lambda given=given: events().recommend(given), KeyError, "unknown='default' gives .*, history= a list by"
        )
    assert len(events().recommend(-1, 3, unknown="default")) == 3


def test_a_moment_in_the_unit_of_the_column():
    split = splits.time_split(date="2015-03-01", time_name="timestamp")
    message = r"column 'timestamp' of int64 \(e.g. \d+\). Give a number in the unit .*pd.to_datetime\(.*, unit='s'\)"
    refuses(lambda: split(ratings()), TypeError, message)
    times = ratings().assign(timestamp=lambda df: pd.to_datetime(df["timestamp"], unit="s"))
    middle = times["timestamp"].median()
    assert len(splits.time_split(date=str(middle), time_name="timestamp")(times).valid) > 0
    refuses(
        lambda: splits.time_split(date=5, time_name="timestamp")(times), TypeError, "Give a date, e.g. '2026-01-31'"
    )
    refuses(
        lambda: splits.time_split(date="soon", time_name="timestamp")(times), ValueError, "date='soon' is no moment"
    )
    texts = ratings().assign(timestamp=lambda df: df["timestamp"].astype(str))
    refuses(lambda: make_dls(texts, time_name="timestamp"), TypeError, r"pd.to_numeric\(df\['timestamp'\]\)")


def test_errors_of_ratings_are_for_ratings():
    ease = EASE().fit(make_dls())
    refuses(
        lambda: events().evaluate(metrics=["RMSE"]), ValueError, "RMSE: only for predicted ratings, and these events"
    )
    refuses(
        lambda: ease.evaluate(metrics=["MAE"]), ValueError, "MAE: only for predicted ratings, and EASE predicts none"
    )
    refuses(
        lambda: trained().evaluate(metrics=["RMSE"], by="user_activity"),
        ValueError,
        "RMSE: only with by=None or by='cold'",
    )


# --- tables of strangers ---------------------------------------------------------------------------------------------


def test_a_table_of_strangers_is_no_empty_table():
    models = [events(), EASE().fit(events().dls), NextItem().fit(ordered())]
    message = "the model knows none of the 'user' ids in the table.*for new users call evaluate_fold_in"
    for model in models:
        with pytest.warns(CollabWarning, match="evaluate_fold_in evaluates new users"):
            refuses(lambda model=model: model.evaluate(on=strangers()), ValueError, message)
    for call in (lambda: compare(models[:1], on=strangers()), lambda: models[0].tradeoff(on=strangers())):
        with pytest.warns(CollabWarning, match="that the model does not know"):
            refuses(call, ValueError, message)
    other = ratings().assign(title=lambda df: df["title"] + " II")
    with pytest.warns(CollabWarning, match="that the model does not know"):
        refuses(lambda: events().evaluate(on=other), ValueError, "knows none of the 'title' ids in the table")
    with pytest.warns(CollabWarning, match=r"evaluate_fold_in evaluates new users \([0-9,]+ of these rows\)"):
        table = trained().evaluate(on=strangers())  # ratings of unknown users are predicted
    assert table.index.tolist() == ["RMSE", "MAE"]


@pytest.mark.parametrize("make", [lambda dls: NextItem().fit(dls), lambda dls: EASE().fit(dls), SASRec, GRURec])
def test_strangers_are_evaluated_by_their_first_rows(make):
    if isinstance(make, type):
        model = silence(collab_learner(ordered(), model=make, n_factors=8))
        model.fit(1)
    else:
        model = make(ordered())
    rec = model.recommender
    table = rec.evaluate_fold_in(strangers(), n_given=[1, 5], k=10)
    assert table.index.tolist() == [0, 1, 5] and table["n_users"].nunique() == 1 and table["n_users"].iloc[0] > 20
    users = NewUserRows(rec.data.train, held_out(rec.data, strangers(), new_users=True), 5, seed=0)
    assert len(users) == table["n_users"].iloc[0] and not users.users.any()
    hits = []
    for j, first in enumerate(users.given(5)):  # by hand: what `recommend` gives for the same histories
        listed = rec.recommend(history=rec.items[first.tolist()], k=10)["title"]
        rest = rec.items[users.items[(users.group == j) & users.is_rest].tolist()]
        hits.append(not set(rest).isdisjoint(listed))
    assert table.loc[5, "HitRate@10"] == pytest.approx(np.mean(hits)) and 0 < np.mean(hits) < 1


def test_strangers_of_a_model_with_rows_of_users():
    table = trained().evaluate_fold_in(strangers(), n_given=[1, 10])
    assert table.loc[10, "RMSE"] < table.loc[0, "RMSE"] == pytest.approx(table.loc[0, "no information"])
    both = pd.concat([strangers(), ratings().head(500)])  # of whom one part was trained on
    assert trained().evaluate_fold_in(both, n_given=[1, 10]).equals(table)
    implicit = events().evaluate_fold_in(strangers(), n_given=[5])
    assert implicit.loc[5, "NDCG@10"] > implicit.loc[0, "NDCG@10"]
    rec = EASE().fit(make_dls()).recommender
    refuses(lambda: rec.evaluate_fold_in(strangers(), n_given=[1]), TypeError, "EASE predicts no ratings")
