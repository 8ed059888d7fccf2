"""`auto`, `tune`, `update`, `compare`, `train --implicit`, and `--config`, as a person types them."""

import re
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from test_cli import run

from collabkit import Recommender
from collabkit.data.notices import say

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`events.csv` with a quantity and a rating, `films.csv` with a genre, tomorrow's `new.csv`; and a model."""
    folder = tmp_path_factory.mktemp("search")
    rng, n = np.random.default_rng(0), 3000
    user, own = rng.integers(0, 120, n), rng.random(n) < 0.6
    film = np.where(own, user % 5 + 5 * rng.integers(0, 16, n), rng.integers(0, 80, n))
    rating = np.clip(np.round(2.5 + 1.5 * (film % 5 == user % 5) + rng.normal(0, 0.7, n)), 1, 5)
    table = pd.DataFrame({"user": user, "film": film, "rating": rating, "plays": rng.integers(1, 5, n),
                          "at": np.arange(n)})  # fmt: skip
    table = table.drop_duplicates(["user", "film"])
    table.to_csv(folder / "events.csv", index=False)
    table.tail(40).assign(user=9999).drop_duplicates("film").to_csv(folder / "new.csv", index=False)
    pd.DataFrame({"film": np.arange(80), "genre": np.arange(80) % 5}).to_csv(folder / "films.csv", index=False)
    words = ["--implicit", "--factors", 8, "--epochs", 3, "--out", "als"]
    printed = run("train", "events.csv", *words, cwd=folder)
    assert "NDCG@10" in printed and "model: CollFilter, solved by least squares\n" in printed
    return folder


def test_train_says_why_it_does_not_solve_by_least_squares(folder):
    words = ["--implicit", "--lr", 0.01, "--bs", 512, "--factors", 4, "--epochs", 1, "--out", "descent"]
    printed = run("train", "events.csv", *words, cwd=folder)
    assert "model: CollFilter, trained by gradient descent because of --lr, --bs; without, by least squares" in printed


def test_a_run_is_repeated_by_its_file(folder):
    config = tomllib.loads((folder / "als.run.toml").read_text())
    assert config["command"] == "train" and config["implicit"] is True and config["factors"] == 8
    run("train", "--config", "als.run.toml", "--out", "again", cwd=folder)  # the command line overrides
    one, two = (Recommender.load(folder / name) for name in ("als", "again"))
    assert one.recommend(5)["film"].tolist() == two.recommend(5)["film"].tolist()
    assert one.recommend(5)["score"].tolist() == two.recommend(5)["score"].tolist()
    again = tomllib.loads((folder / "again.run.toml").read_text())
    assert {k: v for k, v in again.items() if k != "out"} == {k: v for k, v in config.items() if k != "out"}


def test_ratings_write_their_run_too(folder):
    run("train", "events.csv", "--epochs", 1, "--factors", 4, "--y-range", 0, 6, "--out", "rated", cwd=folder)
    config = tomllib.loads((folder / "rated.run.toml").read_text())
    assert config["y_range"] == [0.0, 6.0] and config["epochs"] == 1 and config["seed"] == 42
    run("train", "--config", "rated.run.toml", "--out", "rated2", cwd=folder)
    assert Recommender.load(folder / "rated2").predict(5, 5) == Recommender.load(folder / "rated").predict(5, 5)


def test_features_counts_thresholds_and_models(folder):
    words = ["--implicit", "--counts", "plays", "--items", "films.csv", "--item-feature", "genre:categorical"]
    run("train", "events.csv", *words, "--model", "TwoTower", "--factors", 4, "--epochs", 1, "--out", "net", cwd=folder)
    rec = Recommender.load(folder / "net")
    assert type(rec.model).__name__ == "TwoTower" and rec.data.features.items is not None
    assert rec.data.train.count is not None
    words = ["--implicit", "--threshold", 4, "--model", "EASE", "--out", "liked"]
    assert "model: EASE\n" in run("train", "events.csv", *words, cwd=folder)
    liked = (pd.read_csv(folder / "events.csv")["rating"] >= 4).sum()
    data = Recommender.load(folder / "liked").data
    assert len(data.train) + len(data.valid) == liked
    words = ["--implicit", "--history", 8, "--time", "at", "--split", "last", "--model", "NextItem", "--out", "next"]
    run("train", "events.csv", *words, cwd=folder)
    assert len(Recommender.load(folder / "next").recommend(history=[3, 8], k=2)) == 2


@pytest.mark.parametrize("model", ["TwoTower", "NCF", "EmbeddingNN", "GMF", "FactorizationMachine"])
def test_models_that_learn_from_ratings_in_python_do_so_on_the_command_line(folder, model):
    printed = run("train", "events.csv", "--model", model, "--epochs", 1, "--bs", 512, "--out", model, cwd=folder)
    assert f"model: {model}" in printed and "RMSE" in printed
    assert Recommender.load(folder / model).model.y_range == (None if model in ("TwoTower", "GMF") else (0.6, 5.4))


def test_warnings_of_other_libraries_are_not_printed(folder, monkeypatch):
    def train(*args, **kwargs):
        warnings.warn("a note for programmers", UserWarning, stacklevel=1)
        say("a note for users")

    monkeypatch.setattr("collabkit.cli.training.train_ratings", train)
    printed = run("train", "events.csv", "--out", "noted", cwd=folder, both=True)
    assert "note: a note for users" in printed and "for programmers" not in printed


def test_auto_keeps_one_and_says_what_it_left_out(folder):
    printed = run("auto", "events.csv", "--implicit", "--minutes", 0.2, "--metric", "HR@10", "--out", "best",
                  cwd=folder)  # fmt: skip
    assert "HitRate@10" in printed and printed.count(" kept ") >= 1 and "popularity" in printed
    assert "not tried" in printed or "gained nothing" in printed or printed.count("│") > 40
    assert len(Recommender.load(folder / "best").recommend(5, k=3)) == 3
    assert tomllib.loads((folder / "best.run.toml").read_text())["metric"] == "HR@10"


def test_tune_tries_each_combination_once(folder):
    pytest.importorskip("optuna")
    words = ["--implicit", "--model", "EASE", "--try", "l2=10,100,1000", "--minutes", 5, "--out", "closed"]
    printed = run("tune", "events.csv", *words, "--refit", cwd=folder)  # ends long before the time that it was given
    assert len(re.findall(r"^│ +[012] ", printed, flags=re.MULTILINE)) == 3
    assert "validation included" in printed and Recommender.load(folder / "closed").data.valid is None


@pytest.mark.parametrize("words", [["--implicit", "--factors", 4, "--epochs", 1], ["--model", "EASE", "--implicit"],
                                   ["--epochs", 1, "--factors", 4]])  # fmt: skip
def test_refit_writes_a_model_of_all_rows(folder, words):
    printed = run("train", "events.csv", *words, "--refit", "--out", "whole", cwd=folder)
    assert printed.index("NDCG@10") < printed.index("validation included") < printed.index("artefact written to")
    kept = Recommender.load(folder / "whole").data
    run("train", "events.csv", *words, "--out", "part", cwd=folder)
    part = Recommender.load(folder / "part").data
    assert kept.valid is None and len(kept.train) == len(part.train) + len(part.valid)
    assert "replaces the one that was there" in run("train", "events.csv", *words, "--out", "part", cwd=folder)
    printed = run("evaluate", "whole", cwd=folder, ok=False)
    assert "no validation part to evaluate on: give a table of test rows" in printed


def test_somebody_new_on_the_command_line(folder):
    printed = run("recommend", "als", "--history", 3, "--history", 8, "-k", 2, "--why", "--out", "new.list.csv",
                  cwd=folder)  # fmt: skip
    table = pd.read_csv(folder / "new.list.csv")
    assert "2 rows" in printed and set(table["because"]) <= {3, 8} and not {3, 8} & set(table["film"])
    run("train", "events.csv", "--epochs", 1, "--factors", 4, "--out", "rated", cwd=folder)
    assert "score" in run("recommend", "rated", "--history", "3=5", "--history", "8=1.5", "-k", 2, cwd=folder)
    assert "must be item=rating" in run("recommend", "rated", "--history", "3", cwd=folder, ok=False)
    assert "leave out --user" in run("recommend", "als", "--history", 3, "--user", 5, cwd=folder, ok=False)
    assert "unknown 'film' id(s): 777777" in run("recommend", "als", "--history", 777777, cwd=folder, ok=False)


def test_evaluate_by_named_metrics(folder):
    printed = run("evaluate", "als", "--metric", "NDCG@5", "--metric", "AUC", cwd=folder)
    assert "NDCG@5" in printed and "AUC" in printed and "MRR" not in printed


def test_tune_goes_on(folder):
    pytest.importorskip("optuna")
    words = ["--implicit", "--minutes", 0.5, "--try", "n_factors=4,8", "--try", "reg=1e-3..1e-1", "--try", "n_sweeps=2"]
    run("tune", "events.csv", *words, "--trials", 2, "--out", "tuned", cwd=folder)
    printed = run("tune", "--config", "tuned.run.toml", "--trials", 2, "--out", "tuned", cwd=folder, ok=False)
    assert "pass --resume to go on" in printed
    printed = run("tune", "--config", "tuned.run.toml", "--trials", 3, "--resume", cwd=folder)
    assert "kept" in printed and Recommender.load(folder / "tuned").model.n_factors in (4, 8)


def test_compare_and_update(folder):
    run("train", "--config", "als.run.toml", "--factors", 4, "--out", "small", cwd=folder)
    printed = run("compare", "als", "small", "--baseline", "Popularity", "--metric", "NDCG@5", cwd=folder)
    assert "NDCG@5" in printed and all(name in printed for name in ("als", "small", "popularity"))
    run("compare", "als", "small", "--out", "both.csv", cwd=folder)
    table = pd.read_csv(folder / "both.csv")
    assert set(table["metric"]) == {"NDCG@10", "HitRate@10"} and {"diff_low", "diff_high"} <= set(table.columns)
    before = len(Recommender.load(folder / "small").data.train)
    printed = run("update", "small", "new.csv", "--out", "newer", cwd=folder)
    rec = Recommender.load(folder / "newer")
    assert len(rec.data.train) > before and 9999 in rec.users.o2i and "training rows more" in printed
    assert len(Recommender.load(folder / "small").data.train) == before
    run("update", "--config", "newer.update.run.toml", "--out", "newest", cwd=folder)
    assert len(Recommender.load(folder / "newest").data.train) == len(rec.data.train)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "events.csv", "--threshold", 3, "--out", "x"], "--threshold: only with --implicit"),
        (["train", "events.csv", "--item-feature", "genre", "--out", "x"], "give it by --items"),
        (["train", "events.csv", "--model", "Eas", "--out", "x"], "--model must be one of .*CollFilter"),
        (
            ["train", "events.csv", "--model", "EASE", "--implicit", "--lr", 1, "--out", "x"],
            "in one go, so that --lr has no effect",
        ),
        (
            ["train", "events.csv", "--implicit", "--y-range", 0, 5, "--out", "x"],
            "--y-range 0.0 5.0 bounds predicted ratings",
        ),
        (["train", "events.csv", "--config", "none.toml", "--out", "x"], "there is no file none.toml"),
        (["auto", "--config", "als.run.toml"], "was written by `collabkit train`, not by `collabkit auto`"),
        (["train", "--config", "odd.toml"], r"has 'factor', which train does not know \(did you mean 'factors'"),
        (["train", "--config", "bad.toml"], "is not valid TOML"),
        (["tune", "events.csv", "--try", "lr", "--out", "x"], "--try must be name=a,b,c"),
        (["tune", "events.csv", "--try", "lrr=1,2", "--out", "x"], "space has 'lrr'.*did you mean 'lr'"),
        (["tune", "events.csv", "--model", "EASE", "--try", "reg=1,2", "--out", "x"], "options of EASE are l2, last"),
        (
            ["train", "events.csv", "--split", "last", "--valid-pct", 0.1, "--out", "x"],
            "--valid-pct 0.1 is without effect",
        ),
        (["train", "events.csv", "--valid-pct", 0, "--out", "x"], "to train on all rows in the end, give --refit"),
        (["auto", "events.csv", "--metric", "NDGC@10", "--out", "x"], "unknown metric"),
        (["auto", "events.csv", "--out", "."], "not a collabkit artefact"),
        (["compare", "als", "nothing"], "no artefact folder"),
        (
            ["train", "events.csv", "--model", "TwoTower", "--y-range", 0, 6, "--out", "x"],
            "--y-range bounds predicted ratings, and TwoTower has no bounds",
        ),
        (["train", "events.csv", "--model", "SASRec", "--out", "x"], "learns from events: make dls with --implicit"),
        (["train", "events.csv", "--model", "TimeSVD", "--out", "x"], "uses the time of a row: make dls with --time"),
        (["tune", "events.csv", "--implicit", "--try", "n_factors=x,8", "--out", "x"], "n_factors must be .*, got 'x'"),
        (["tune", "events.csv", "--try", "reg=1,2", "--metric", "NDGC@10", "--out", "x"], "did you mean 'NDCG'"),
        (["train", "events.csv", "--split", "time", "--out", "x"], "pass --time, one of"),
        (["update", "als", "nothing.csv"], "nothing.csv"),
    ],
)
def test_what_is_refused(folder, words, message):
    (folder / "odd.toml").write_text('command = "train"\nfactor = 3\n')
    (folder / "bad.toml").write_text("command = \n")
    printed = " ".join(run(*words, cwd=folder, ok=False).split())
    assert re.search(message, printed) and "Traceback" not in printed
    assert "to repeat it" not in printed and not (folder / "x.run.toml").exists()
