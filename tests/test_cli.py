"""The command line, as a person types it."""

import contextlib
import io
import os
import re
import socket
import sys
import warnings
from unittest import mock

import pandas as pd
import pytest
from elsewhere import collabkit

from collabkit import cli, datasets
from collabkit.cli.console import called


def run(*words, cwd, ok=True, both=False):
    """Standard output of `collabkit words...`, run in this process, with the errors if it is to fail or for `both`."""
    out, error, status = io.StringIO(), io.StringIO(), 0
    here = os.getcwd()
    os.chdir(cwd)
    try:
        with (
            warnings.catch_warnings(),  # main() prints warnings as notes
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
            mock.patch.object(sys, "argv", ["collabkit", *map(str, words)]),
        ):
            try:
                cli.main()
            except SystemExit as end:
                status = end.code or 0
    finally:
        os.chdir(here)
    assert (status == 0) == ok, out.getvalue() + error.getvalue()
    return out.getvalue() if ok and not both else out.getvalue() + error.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `ratings.csv`, `ratings.parquet` and the artefact `model` trained on it."""
    folder = tmp_path_factory.mktemp("cli")
    ratings = datasets.synthetic(n_users=200, n_items=150, n_ratings=6000, min_events=10, seed=1).ratings
    ratings = ratings[["user", "title", "rating", "timestamp"]]
    ratings.to_csv(folder / "ratings.csv", index=False)
    ratings.to_parquet(folder / "ratings.parquet")
    ratings.sample(200, random_state=0).to_csv(folder / "test.csv", index=False)
    printed = run("train", "ratings.csv", "--out", "model", "--epochs", 3, "--bs", 64, "--factors", 16, cwd=folder)
    assert "RMSE" in printed and "artefact written to" in printed
    assert "model: CollFilter\n" in printed
    assert len(re.findall(r"^ +[123]  +\d\.\d+  +\d\.\d+", printed, flags=re.MULTILINE)) == 3  # a line an epoch
    return folder


def test_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = collabkit("demo", "--out", "out", timeout=240).stdout
    for words in ("train loss", "RMSE", "MAE", "global mean", "user+item bias", "Top 10", "Best items", "Worst items"):
        assert words in printed
    assert "Nearest neighbours" in printed and "Done in" in printed
    for plot in ("losses.png", "pca_map.png", "item_bias.png"):
        assert (tmp_path / "out" / plot).stat().st_size > 10_000
    assert (tmp_path / "out" / "artefact" / "config.json").is_file()
    assert printed.rstrip().endswith("collabkit serve out/artefact")


def test_commands_are_printed_as_they_can_be_typed(tmp_path, monkeypatch):
    command = tmp_path / "there" / "bin" / "collabkit"
    command.parent.mkdir(parents=True)
    command.write_text("")
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(command), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert called() == "there/bin/collabkit"
    monkeypatch.setenv("PATH", str(command.parent))
    assert called() == "collabkit"
    monkeypatch.setattr(sys, "argv", ["-m"])  # python -m collabkit.cli, or a notebook
    assert called() == "collabkit"


def test_demo_names_a_folder_that_is_no_movielens(tmp_path):
    printed = run("demo", "--data", ".", cwd=tmp_path, ok=False)
    assert "is not a MovieLens folder" in printed and "Traceback" not in printed


def test_train_on_parquet_by_time(folder):
    words = ["--time", "timestamp", "--split", "time", "--epochs", 1, "--out", "by-time"]
    assert "RMSE" in run("train", "ratings.parquet", *words, cwd=folder)


def test_train_by_dates_in_a_csv(folder):
    table = pd.read_csv(folder / "ratings.csv")
    table["timestamp"] = pd.to_datetime(table["timestamp"], unit="s").astype(str)
    table.to_csv(folder / "dates.csv", index=False)
    words = ["--time", "timestamp", "--split", "time", "--epochs", 1, "--out", "by-date"]
    assert "RMSE" in run("train", "dates.csv", *words, cwd=folder)


def test_recommend_one_user(folder):
    printed = run("recommend", "model", "--user", 3, "-k", 4, cwd=folder)
    assert len(re.findall(r"^│ +3 │", printed, flags=re.MULTILINE)) == 4


def test_recommend_all_users_to_a_file(folder):
    run("recommend", "model", "-k", 2, "--out", "all.csv", cwd=folder)
    table = pd.read_csv(folder / "all.csv")
    assert list(table.columns) == ["user", "title", "rank", "score"] and len(table) == 400
    run("recommend", "model", "-k", 2, "--out", "all.parquet", cwd=folder)
    assert pd.read_parquet(folder / "all.parquet")["title"].tolist() == table["title"].tolist()


def test_similar(folder):
    title = pd.read_csv(folder / "ratings.csv")["title"].iloc[0]
    assert "similarity" in run("similar", "model", title, "-k", 3, cwd=folder)


def test_evaluate(folder):
    assert "popularity" in run("evaluate", "model", cwd=folder)
    printed = run("evaluate", "model", "test.csv", cwd=folder)
    assert re.search(r"MAE .* 200 ", printed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recommend", "model", "--user", "x"], "whole numbers"),
        (["recommend", "model", "--user", "99999"], "unknown 'user' id"),
        (["recommend", "nothing"], "no artefact folder"),
        (["recommend", "model", "--out", "x.txt"], "must end in .csv or .parquet"),
        (["similar", "model", "No Such Film"], "unknown 'title' id"),
        (["train", "ratings.csv", "--out", "m", "--user", "usr"], "not found"),
        (["train", "ratings.csv", "--out", "m", "--split", "odd"], "--split must be one of"),
        (["train", "ratings.csv", "--out", "m", "--valid-pct", "20"], "got 20: for 20 % give --valid-pct 0.2"),
        (["train", "ratings.csv", "--out", "m", "--split", "time", "--valid-pct", "0"], "--valid-pct must lie"),
        (["train", "none.csv", "--out", "m"], "no such file"),
        (["train", "ratings.csv", "--out", "m", "--y-range", "0", "4"], "outside --y-range"),
    ],
)
def test_errors_are_one_line_without_a_traceback(folder, words, message):
    printed = run(*words, cwd=folder, ok=False)
    assert message in printed and "Traceback" not in printed


def test_serve_names_a_port_that_is_in_use(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        printed = run("serve", "model", "--port", port, cwd=folder, ok=False)
    assert printed == f"collabkit: port {port} is in use: choose another with --port\n"


def test_help_lists_the_commands(tmp_path):
    printed = run("--help", cwd=tmp_path)
    assert all(name in printed for name in ("demo", "train", "recommend", "similar", "evaluate"))
    assert "0.1" in run("--version", cwd=tmp_path)


def test_square_brackets_in_titles_are_printed(capsys):
    from collabkit.cli.console import print_table

    print_table(pd.DataFrame({"title": ["[rec] (2007)", "odd [/b]"]}), "of [x]")
    printed = capsys.readouterr().out
    assert "[rec] (2007)" in printed and "odd [/b]" in printed and "of [x]" in printed


def test_columns_are_found_by_name(tmp_path):
    table = datasets.synthetic(n_users=60, n_items=50, n_ratings=1500, min_events=10, seed=1).ratings
    table[["rating", "title", "user"]].to_csv(tmp_path / "r.csv")  # in another order, and with pandas' index
    printed = run("train", "r.csv", "--out", "m", "--epochs", 1, cwd=tmp_path)
    assert "columns: user 'user', item 'title', rating 'rating'" in printed


def test_train_refuses_an_unusable_target_before_training(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    printed = run("train", "ratings.csv", "--out", "mine", cwd=folder, ok=False)
    assert "not a collabkit artefact" in printed and "train loss" not in printed


def test_a_moment_on_the_command_line(folder):
    ratings = pd.read_csv(folder / "ratings.csv").assign(device=lambda df: ["tv", "phone"] * (len(df) // 2))
    ratings["rating"] = ratings["rating"].where(ratings["device"] == "tv", 6 - ratings["rating"])
    ratings.to_csv(folder / "moments.csv", index=False)
    options = ("--out", "timed", "--epochs", 2, "--bs", 256, "--factors", 8)
    known = ("--context", "device", "--context", "timestamp:time")
    run("train", "moments.csv", *options, *known, cwd=folder)
    user = str(ratings["user"].iloc[0])
    lists = [
        run("recommend", "timed", "-u", user, "-k", 5, "--context", f"device={device}", cwd=folder)
        for device in ("tv", "phone")
    ]
    assert lists[0] != lists[1] and "Top 5" in lists[0]
    run("recommend", "timed", "-u", user, "--context", "device=tv", "--context", "timestamp=1998-03-09", cwd=folder)
    assert "column=value" in run("recommend", "timed", "-u", user, "--context", "device", cwd=folder, ok=False)
    assert "the model knows" in run("recommend", "timed", "-u", user, "--context", "place=sofa", cwd=folder, ok=False)


def test_recommend_users_of_a_file_to_a_folder(folder):
    pd.DataFrame({"user": range(1, 30)}).to_parquet(folder / "users.parquet")
    printed = run("recommend", "model", "--users", "users.parquet", "-k", 3, "--out", "lists", cwd=folder)
    lists = pd.read_parquet(folder / "lists")
    assert "lists written to" in printed and lists["user"].nunique() == 29 and list(lists["rank"][:3]) == [1, 2, 3]


def test_train_on_parts_that_are_larger_than_memory(folder):
    pytest.importorskip("polars")
    (folder / "parts").mkdir()
    ratings = pd.read_parquet(folder / "ratings.parquet")
    for j, rows in enumerate((ratings[:2000], ratings[2000:])):
        rows.to_parquet(folder / "parts" / f"{j}.parquet")
    command = ["train", "parts", "--out", "streamed", "--cache", "cache", "--epochs", 1, "--factors", 4]
    printed = run(*command, "--bs", 64, "--time", "timestamp", "--split", "time", cwd=folder)
    assert "RMSE" in printed and "artefact written to" in printed
    assert len(list((folder / "cache").glob("*/3-order.json"))) == 1
