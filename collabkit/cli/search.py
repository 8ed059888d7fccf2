"""The commands `auto`, `tune`, `update` and `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import collabkit
from collabkit.cli.runs import Columns, Refit, Rows, chosen, loaders, model_named, record, takes, write

__all__ = ["add_commands"]

_TRY = "Values to try: name=a,b,c (choices), name=low..high (a range) or name=value (fixed); repeat for more."
Table = Annotated[Path, typer.Argument(help="Ratings or events, as in `train`.", show_default=False)]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for the artefact.")]
Metric = Annotated[str | None, typer.Option(help="Metric to optimise; default NDCG@10, or RMSE for ratings.")]
Minutes = Annotated[float, typer.Option(help="Total time in minutes.", min=0.0)]


def add_commands(app: typer.Typer) -> None:
    """Put the commands into the application."""
    for command in (auto, tune, update, compare):
        app.command()(command)


@takes(columns=Columns, rows=Rows)
def auto(
    ratings: Table, out: OutFolder, columns, rows, metric: Metric = None, minutes: Minutes = 2.0, refit: Refit = False
) -> None:  # fmt: skip
    """Try models from popularity upwards while they improve, and write the artefact of the best."""
    _check_out(out)
    dls = loaders(ratings, columns, rows)
    best, table = collabkit.auto_fit(dls, metric, minutes, show=False)
    _print(table, f"{table.columns.name}: chosen by `value`, to be quoted by `test`")
    write(chosen(best, refit).export, out)
    record(out)


@takes(columns=Columns, rows=Rows)
def tune(
    ratings: Table, out: OutFolder, columns, rows,
    try_: Annotated[list[str], typer.Option("--try", help=_TRY)], metric: Metric = None, minutes: Minutes = 10.0,
    model: Annotated[str | None, typer.Option(help="A model's class, e.g. TwoTower or EASE.")] = None,
    trials: Annotated[int | None, typer.Option(help="Maximum number of trials.", min=1)] = None,
    storage: Annotated[Path | None, typer.Option(help="File of the trials; default next to the artefact.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue with the trials in the file.")] = False,
    refit: Refit = False,
) -> None:  # fmt: skip
    """Search the options of a model with Optuna and write the artefact of the best."""
    _check_out(out)
    space = dict(_choice(text) for text in try_) | ({} if model is None else {"model": model_named(model)})
    storage = out.with_name(f"{out.name}.trials") if storage is None else storage
    from collabkit.train.space import Space
    from collabkit.train.tune import searched

    Space(space)  # errors in it come before the file is read
    dls = loaders(ratings, columns, rows, bs=None)
    options = {"metric": metric, "minutes": minutes, "n_trials": trials, "storage": storage, "resume": resume}
    options["begin"] = lambda: record(out)  # before the trials, so that a killed search can go on by --config --resume
    best, table = searched(dls, space, **options)
    _print(table, f"{table.columns.name}: chosen by `value`, to be quoted by `test`")
    write(chosen(best, refit).export, out)


@takes()
def update(
    artefact: Annotated[Path, typer.Argument(help="Artefact folder, as written by `train`.", show_default=False)],
    events: Annotated[Path, typer.Argument(help="New rows, with the columns of the model.", show_default=False)],
    users: Annotated[Path | None, typer.Option(help="Table of new users, for models with user features.")] = None,
    items: Annotated[Path | None, typer.Option(help="Table of new items, for models with item features.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder; default the artefact itself.")] = None,
) -> None:
    """Add events since training to an artefact, without a fit."""
    from collabkit.data.tables import with_dates

    target = artefact if out is None else out
    _check_out(target)
    rec, read = collabkit.Recommender.load(artefact), collabkit.datasets.read_interactions
    table = with_dates(read(events), rec.data.columns.time)
    sides = [None if file is None else read(file) for file in (users, items)]
    before = len(rec.data.train)
    rec.update(table, *sides)
    print(f"{len(rec.data.train) - before:,} training rows more, {len(rec.data.train):,} in all; "
          f"{rec.data.n_users - 1:,} users, {rec.data.n_items - 1:,} items")  # fmt: skip
    write(rec.save, target)
    record(target.with_name(f"{target.name}.update"))


@takes()
def compare(
    artefacts: Annotated[
        list[Path], typer.Argument(help="Artefacts of models with the same rows.", show_default=False)
    ],
    on: Annotated[Path | None, typer.Option(help="Test table; default the validation part.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="E.g. NDCG@10; repeat for more. Default RMSE for models of ratings.")
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Add Popularity, ItemKNN or EASE; repeat for more.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the table to this .csv or .parquet.")] = None,
) -> None:
    """Compare models on the same users, with intervals of their differences to the first."""
    from collabkit.cli.console import print_table, show

    rest = [model_named(name)() for name in baseline or ()]
    models = [collabkit.Recommender.load(folder) for folder in artefacts]
    rated = all(model.data.rated and model.model.predicts_ratings for model in models)
    names = [folder.name for folder in artefacts] + [model.name or type(model).__name__ for model in rest]
    table = collabkit.compare(
        [*models, *rest], names=names if len(set(names)) == len(names) else None,
        metrics=metric or (["RMSE"] if rated and not rest else ["NDCG@10", "HitRate@10"]),
        on="valid" if on is None else collabkit.datasets.read_interactions(on),
    )  # fmt: skip
    if out is None:
        print_table(_with_intervals(table.reset_index()), f"95 % intervals over users; {table.columns.name}")
    else:
        show(table.reset_index(), "", out)
        record(out)


def _check_out(out: Path) -> None:
    from collabkit.serve.artefact import check_target

    check_target(out.resolve())


def _print(table, title: str) -> None:
    """A table of a search, each figure with its interval in one cell, and the notes below it."""
    from collabkit.cli.console import print_table

    shown = _with_intervals(table.reset_index())
    notes = dict(zip(shown.iloc[:, 0], shown["note"], strict=True)) if "note" in shown else {}
    state = shown.pop("state").replace("complete", "") if "state" in shown else ""
    shown["kept"] = shown["kept"].map({True: "kept", False: ""}).mask(~shown["kept"], state)
    print_table(shown.drop(columns="note", errors="ignore"), title)
    for name, note in notes.items():
        if note:
            print(f"{name}: {note}")


def _with_intervals(table):
    """A table whose figures have their intervals in their cells."""
    import pandas as pd

    parts = [("value", "low", "high"), ("difference", "diff_low", "diff_high")]
    parts += [(name, f"{name}_low", f"{name}_high") for name in ("gain", "test")]
    for name, low, high in parts:
        if name in table:
            cells = zip(table[name], table[low], table[high], strict=True)
            table[name] = ["" if pd.isna(v) else f"{v:.3f}{_interval(a, b)}" for v, a, b in cells]
            table = table.drop(columns=[low, high])
    return table


def _interval(low: float, high: float) -> str:
    """The ends with three decimals, without zeros before the point, to fit into narrow columns; nothing for NaN."""
    if low != low:
        return ""
    ends = [f"{end:.3f}".replace("0.", ".", 1) if abs(end) < 1 else f"{end:.3f}" for end in (low, high)]
    return f" {ends[0]}{'–' if low >= 0 else ' to '}{ends[1]}"


def _choice(text: str) -> tuple:
    """`name=a,b`, `name=low..high` or `name=value` as what `Space` takes."""
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise ValueError(f"--try must be name=a,b,c, name=low..high or name=value, got {text!r}")
    if ".." in value:
        ends = [_value(end) for end in value.split("..")]
        return name, tuple(ends)
    return name, [_value(part) for part in value.split(",")] if "," in value else _value(value)


def _value(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)
