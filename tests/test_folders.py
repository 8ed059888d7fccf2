"""Folders that are one table: Parquet, CSV, RecBole's atomic files, MovieLens; by Python and on the command line."""

import pandas as pd
import pytest
from helpers import DATA
from test_cli import run

from collabkit import datasets
from collabkit.datasets import read_interactions

RATINGS = datasets.synthetic(n_users=60, n_items=60, n_ratings=1500, min_events=10, seed=1).ratings
HALVES = (RATINGS[:700], RATINGS[700:])
ATOMIC = "user_id:token\titem_id:token\trating:float\ttimestamp:float\ttags:token_seq\n"


def test_parquet_of_spark(tmp_path):
    for year, half in zip((2020, 2021), HALVES, strict=True):
        part = tmp_path / f"year={year}"
        part.mkdir()
        half.astype({"rating": "int32" if year == 2020 else "int64"}).to_parquet(part / "part-0.parquet", index=False)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "._part.crc").write_text("x")
    (tmp_path / "_temporary").mkdir()
    HALVES[0].to_parquet(tmp_path / "_temporary" / "lost.parquet")
    table = read_interactions(tmp_path)
    pd.testing.assert_frame_equal(table.drop(columns="year"), RATINGS)
    assert table["year"].tolist() == [2020] * 700 + [2021] * 800


def test_csv_files_in_the_order_of_their_names(tmp_path):
    HALVES[1].to_csv(tmp_path / "b.csv.gz", index=False)
    HALVES[0].to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "notes.txt").write_text("of no interest")
    pd.testing.assert_frame_equal(read_interactions(tmp_path), RATINGS)


def test_atomic_files(tmp_path):
    (tmp_path / "x.inter").write_text(ATOMIC + "1\t007\t3\t9\ta b\n12\t8\t4.5\t10.25\t\n")
    (tmp_path / "x.item").write_text("item_id:token\tyear:float\n8\t1999\n")
    for path in (tmp_path, tmp_path / "x.inter"):
        table = read_interactions(path)
        assert list(table) == ["user_id", "item_id", "rating", "timestamp", "tags"]
        assert table["user_id"].tolist() == [1, 12] and table["item_id"].tolist() == ["007", "8"]
        assert table["timestamp"].tolist() == [9, 10.25] and table["tags"].isna().tolist() == [False, True]
    (tmp_path / "y.inter").write_text(ATOMIC)
    with pytest.raises(ValueError, match="2 atomic files"):
        read_interactions(tmp_path)
    (tmp_path / "z.inter").write_text("user_id\titem_id:token\n1\t2\n")
    with pytest.raises(ValueError, match=r"no type for \['user_id'\]"):
        read_interactions(tmp_path / "z.inter")


def test_a_movielens_folder_has_titles(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    assert list(read_interactions(tmp_path)) == ["userId", "movieId", "rating", "timestamp"]
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n31,Dangerous Minds (1995),Drama\n")
    assert read_interactions(tmp_path)["title"].tolist() == ["Dangerous Minds (1995)"]


@pytest.mark.parametrize(("edition", "n"), [("ml-100k", 100_000), ("ml-latest-small", 100_836)])
def test_real_movielens(edition, n):
    if not (DATA / edition).is_dir():
        pytest.skip(f"no real data: no {edition} in {DATA}")
    table = read_interactions(DATA / edition)
    assert abs(len(table) - n) < 1000 and {"user", "title", "rating"} <= set(table)


def test_folders_that_are_no_table(tmp_path):
    with pytest.raises(ValueError, match="is a folder with no file that can be read"):
        read_interactions(tmp_path)
    HALVES[0].to_csv(tmp_path / "a.csv", index=False)
    HALVES[1].rename(columns={"user": "who"}).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match=r"b.csv has the columns \['who'"):
        read_interactions(tmp_path)
    RATINGS.to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="2 .csv, 1 .parquet: expected the parts of one table"):
        read_interactions(tmp_path)


def test_the_command_line_takes_folders(tmp_path):
    (tmp_path / "log").mkdir()
    rows = RATINGS.rename(columns={"user": "user_id:token", "item": "item_id:token", "rating": "rating:float"})
    rows = rows[["item_id:token", "rating:float", "user_id:token"]]
    rows.to_csv(tmp_path / "log" / "log.inter", sep="\t", index=False)
    printed = run("train", "log", "--out", "m", "--epochs", 1, "--factors", 2, cwd=tmp_path)
    assert "columns: user 'user_id', item 'item_id', rating 'rating'" in printed
    assert "RMSE" in run("evaluate", "m", "log", cwd=tmp_path)
