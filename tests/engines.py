"""What `test_engines.py`, `test_ray.py` and `test_spark.py` ask of an engine that writes lists."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

K = 4


def write_users(folder, ids):
    """A folder of users as they come: other columns, widths of numbers that differ, a mark that is no part."""
    folder.mkdir()
    pq.write_table(pa.table({"x": ids[:60], "user": pa.array(ids[:60], pa.int32())}), folder / "a.parquet")
    pq.write_table(pa.table({"user": ids[60:], "x": ids[60:]}), folder / "b.parquet")
    (folder / "_SUCCESS").write_text("")


def in_order(lists) -> pd.DataFrame:
    return pd.read_parquet(lists).sort_values(["user", "rank"], ignore_index=True)


def check_same_lists(found, rec, ids, **options):
    """Those of one call; sums may be taken in another order."""
    wanted = rec.recommend(np.sort(ids), K, **options)
    pd.testing.assert_frame_equal(in_order(found), wanted, rtol=1e-5)


def missing_column(folder):
    pq.write_table(pa.table({"a": [1], "b": [2]}), folder / "a.parquet")


def truncated_part(folder):
    pq.write_table(pa.table({"user": list(range(1, 50))}), folder / "a.parquet")
    whole = (folder / "a.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(whole[: len(whole) // 2])


def ids_of_two_types(folder):
    pq.write_table(pa.table({"user": [1, 2]}), folder / "a.parquet")
    pq.write_table(pa.table({"user": ["3", "4"]}), folder / "b.parquet")


def ids_of_another_type(folder):
    pq.write_table(pa.table({"user": ["1", "2"]}), folder / "a.parquet")


def empty_folder(folder):
    pass


def no_rows(folder):
    pq.write_table(pa.table({"user": pa.array([], pa.int64())}), folder / "a.parquet")


def unknown_user(folder):
    pq.write_table(pa.table({"user": [1, 2, 99_999]}), folder / "a.parquet")


def missing_id(folder):
    pq.write_table(pa.table({"user": pa.array([1, None, 2])}), folder / "a.parquet")


def several_kinds(folder):
    pq.write_table(pa.table({"user": [1, 2]}), folder / "a.parquet")
    (folder / "b.csv").write_text("user\n3\n")


def text_among_numbers(folder):
    (folder / "a.csv").write_text("user,x\n1,a\nbob,b\n")


def ragged_lines(folder):
    (folder / "a.csv").write_text("user,x\n1,a\n2\n")


FAULTS = {
    missing_column: (KeyError, r"no column 'user', but \['a', 'b'\]"),
    truncated_part: (ValueError, "b.parquet is not a complete Parquet file"),
    ids_of_two_types: (ValueError, "'user' is of type int64 in a.parquet and of type string in b.parquet"),
    ids_of_another_type: (TypeError, "'user' ids are of type number .* received type str"),
    empty_folder: (ValueError, "holds no Parquet, CSV or TSV file"),
    no_rows: (ValueError, "there are no users to recommend to"),
    unknown_user: (KeyError, r"1 unknown 'user' id\(s\): 99999"),
    missing_id: (ValueError, r"'user' has 1 missing \(NaN\) id"),
    several_kinds: (ValueError, "files of several kinds"),
    text_among_numbers: (ValueError, "a.csv is damaged .*'bob'"),
    ragged_lines: (ValueError, "a.csv is not a complete CSV file .*Expected 2 columns, got 1"),
}
