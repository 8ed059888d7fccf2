"""Tables, headings and messages in a terminal, for the command line; and how it was called."""

import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from collabkit.evaluate.names import ERRORS

__all__ = ["OPTIONS", "as_options", "called", "show", "print_table", "print_evaluation", "print_heading"]

FEW = 10  # users, below which a ranking says little
OPTIONS = {
    "user_name": "user", "item_name": "item", "rating_name": "rating", "time_name": "time", "valid_pct": "valid-pct",
    "context_features": "context", "threshold": "threshold", "counts": "counts", "history": "history",
    "n_factors": "factors", "n_epoch": "epochs", "y_range": "y-range", "storage": "storage", "model": "model",
    "out": "out",
}  # fmt: skip  # arguments that messages of the library name, by the options that stand for them


def as_options(text: str) -> str:
    """A message of the library with options of the command line in the place of arguments of Python.

    Example:
        >>> as_options("pass time_name=, or history=100; resume=True goes on; make dls with feedback='implicit'")
        'pass --time, or --history 100; --resume goes on; make dls with --implicit'
    """
    text = re.sub(r"\bresume=True\b", "--resume", re.sub(r"\bfeedback='implicit'", "--implicit", text))
    names = "|".join(OPTIONS)
    return re.sub(rf"(?<![\w-])({names})=(?=(\S?))",
                  lambda m: f"--{OPTIONS[m[1]]}{'' if m[2] in ' ,;:.)' else ' '}", text)  # fmt: skip


def called() -> str:
    """The command as a person can type it here: `collabkit`, or its path where the shell would not find it."""
    typed, found = Path(sys.argv[0]), shutil.which("collabkit")
    if typed.stem != "collabkit" or not typed.is_file() or (found and Path(found).samefile(typed)):
        return "collabkit"
    return os.path.relpath(typed)


def show(table: pd.DataFrame, title: str, out: Path | None) -> None:
    """Print a table, or write it to `out`, a .csv or .parquet file."""
    if out is None:
        print_table(table, title)
        return
    if out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--out must end in .csv or .parquet, got {out}")
    (table.to_csv if out.suffix == ".csv" else table.to_parquet)(out, index=False)
    print(f"{len(table):,} rows written to {out}")


def print_table(table: pd.DataFrame, title: str) -> None:
    """Print a DataFrame under a title, numbers to four significant digits."""
    rich = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for name in table.columns:
        numeric = pd.api.types.is_numeric_dtype(table[name].dtype)
        rich.add_column(escape(str(name)), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in table.itertuples(index=False):
        rich.add_row(*(_cell(value) for value in row))
    Console().print(rich)


def print_evaluation(table: pd.DataFrame) -> None:
    """Print the result of `evaluate`, rating errors and ranking metrics apart, each beside its own baselines."""
    errors = table.index.isin(ERRORS)
    notes = ["trained to predict ratings, not to rank"] if errors.any() else []
    note = "; ".join([*notes, *([table.columns.name] if table.columns.name else [])])
    note = f" ({note})" if note else ""
    few = table.loc[~errors, "n"].max()
    note += f", of {few} user{'s'[: few != 1]} only" if few < FEW else ""
    titles = ("Rating prediction (95 % interval over users)", f"Ranking of all items{note}")
    for part, title in zip((table[errors], table[~errors]), titles, strict=True):
        if len(part):
            narrow = ["diff_low", "diff_high", *["difference"][: title is titles[0]]]  # would not fit in a terminal
            part = part.drop(columns=narrow, errors="ignore")
            print_table(part.dropna(axis="columns", how="all").reset_index(), title)


def print_heading(text: str) -> None:
    """Print a line that starts a section."""
    Console().print(f"\n[bold cyan]{text}[/]", highlight=False)


def _cell(value) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return escape(str(value))
