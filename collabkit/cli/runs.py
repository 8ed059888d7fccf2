"""Shared parts of the commands that train: the options of the data, and `--config`, a file that repeats a run."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

import collabkit
from collabkit.data.notices import near_match

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Columns", "Refit", "Rows", "chosen", "kinds", "loaders", "model_named", "record", "splitter_of", "takes",
           "write"]  # fmt: skip

_CONTEXT: ContextVar[typer.Context] = ContextVar("collabkit_command")  # of the command that runs
_FEATURE = "a column of it to use, or column:kind, e.g. genres:multi; repeat for more. Default all informative columns."
Refit = Annotated[
    bool,
    typer.Option("--refit", help="After the evaluation, train again on all rows, validation included, and keep that."),
]


@dataclass
class Rows:
    """Options for the kind of rows and for the features of users and items."""

    implicit: Annotated[bool, typer.Option("--implicit", help="Rows are events (clicks, purchases), not ratings.")] = (
        False
    )
    threshold: Annotated[float | None, typer.Option(help="Implicit: the lowest rating that is a positive.")] = None
    counts: Annotated[str | None, typer.Option(help="Implicit: quantity column, or repeats, as confidence.")] = None
    history: Annotated[int | None, typer.Option(help="Implicit: predict the next item from this many events.")] = None
    users: Annotated[Path | None, typer.Option(help="Table of users, with the user column.")] = None
    items: Annotated[Path | None, typer.Option(help="Table of items, with the item column.")] = None
    user_feature: Annotated[list[str] | None, typer.Option(help=f"With --users: {_FEATURE}")] = None
    item_feature: Annotated[list[str] | None, typer.Option(help=f"With --items: {_FEATURE}")] = None


@dataclass
class Columns:
    """Options for the columns and the split, as in `train`."""

    user: Annotated[str | None, typer.Option(help="User column; default found by name, else by position.")] = None
    item: Annotated[str | None, typer.Option(help="Item column; default as for --user.")] = None
    rating: Annotated[str | None, typer.Option(help="Rating column; default as for --user.")] = None
    time: Annotated[str | None, typer.Option(help="Time column, for --split time and last, and --history.")] = None
    split: Annotated[str, typer.Option(help="random, time (latest share) or last (last row of each user).")] = "random"
    valid_pct: Annotated[
        float | None, typer.Option(help="Share of the rows for validation (random, time); default 0.2.")
    ] = None
    context: Annotated[list[str] | None, typer.Option(help="Context column, or column:kind; repeat for more.")] = None
    seed: Annotated[int, typer.Option(help="Seed of the split, the weights and the training.")] = 42


def takes(**groups: type) -> Callable:
    """A command that has the options of dataclasses, each given to it as one argument, and `--config`.

    Args:
        **groups: by the argument's name, the dataclass.
    """

    def decorate(function: Callable) -> Callable:
        own = inspect.signature(function)
        hints = get_type_hints(function, include_extras=True)
        kept = [p.replace(annotation=hints[p.name]) for p in own.parameters.values() if p.name not in groups]
        for group in groups.values():
            types = get_type_hints(group, include_extras=True)
            kept += [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default,
                                       annotation=types[f.name]) for f in fields(group)]  # fmt: skip
        kept.append(inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
        kept.append(inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_CONFIG))

        @functools.wraps(function)
        def command(*args, **kwargs):
            kwargs.pop("config")
            token = _CONTEXT.set(kwargs.pop("ctx"))
            of = {name: {f.name: kwargs.pop(f.name) for f in fields(group)} for name, group in groups.items()}
            try:
                return function(*args, **kwargs, **{name: groups[name](**given) for name, given in of.items()})
            finally:
                _CONTEXT.reset(token)

        order = {"POSITIONAL_OR_KEYWORD": 0, "KEYWORD_ONLY": 1}
        kept.sort(key=lambda p: order[p.kind.name])
        command.__signature__ = own.replace(parameters=kept)
        command.__annotations__ = {p.name: p.annotation for p in kept}
        del command.__wrapped__
        return command

    return decorate


def _read(ctx: typer.Context, file: Path | None) -> Path | None:
    """Use the options of a file where the command line does not name them."""
    if file is None:
        return None
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--config: there is no file {file}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--config: {file} is not valid TOML: {error}") from None
    command = values.pop("command", ctx.info_name)
    values.pop("collabkit", None)
    if command != ctx.info_name:
        raise ValueError(f"{file} was written by `collabkit {command}`, not by `collabkit {ctx.info_name}`")
    known = [p.name for p in ctx.command.params if p.name not in ("config", "help")]
    for name in values:
        if name not in known:
            raise ValueError(f"{file} has {name!r}, which {command} does not know{near_match(name, known)}; it takes "
                             f"{', '.join(known)}")  # fmt: skip
    ctx.default_map = values
    return file


_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config", is_eager=True, callback=_read, help="Read options from a run's .toml; others override it."
    ),
]


def record(target: Path) -> Path:
    """Write the options of the running command to `<target>.run.toml`, next to its output.

    `--config` repeats the run.
    """
    ctx = _CONTEXT.get()
    lines = [f"command = {json.dumps(ctx.info_name)}", f"collabkit = {json.dumps(collabkit.__version__)}"]
    for name, value in sorted(ctx.params.items()):
        if value is not None and name != "config" and not (isinstance(value, (list, tuple)) and not value):
            lines.append(f"{name} = {_toml(value)}")
    file = target.with_name(f"{target.name}.run.toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    from collabkit.cli.console import called

    print(f"to repeat it: {called()} {ctx.info_name} --config {file}")
    return file


def chosen(model, refit: bool, speak: Callable = print):
    """The learner or closed form, trained anew on all rows if `refit`."""
    if not refit:
        return model
    from collabkit.models.closed_form import ClosedForm

    speak("training on all rows, validation included")
    with ExitStack() as quiet:
        if not isinstance(model, ClosedForm):
            quiet.enter_context(model.no_bar())
            quiet.enter_context(model.no_logging())
        return model.refit_all()


def write(save: Callable, out: Path, speak: Callable = print) -> None:
    """Write an artefact by the `export` or `save` of its owner; say where, and whether one was there."""
    replaces = " (replaces the one that was there)" if out.exists() else ""
    speak(f"artefact written to {save(out.resolve())}{replaces}")


def _toml(value) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Path):
        value = str(value.expanduser().resolve())
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def model_named(name: str | None):
    """A model's class by its name; None for none."""
    if name is None:
        return None
    from collabkit import models

    known = [n for n in collabkit.__all__ if n in models.__all__ and n not in ("Pipeline", "ContentKNN", "HybridKNN")]
    if name not in known:
        raise ValueError(f"--model must be one of {', '.join(known)}, got {name!r}{near_match(name, known)}")
    return getattr(models, name)


def loaders(ratings: Path, columns: Columns, rows: Rows, bs: int | None = 64):
    """Dataloaders of a file by the options of a command; the chosen columns are printed."""
    from collabkit.data.tables import name_columns, with_dates

    read = collabkit.datasets.read_interactions
    df = with_dates(read(ratings), columns.time)
    rated = not rows.implicit or rows.threshold is not None
    _check(rows)
    found = name_columns(df, columns.user, columns.item, columns.rating, columns.time, rated=rated)
    print(f"columns: user {found.user!r}, item {found.item!r}" + (f", rating {found.rating!r}" if rated else ""))
    names = {"user_name": found.user, "item_name": found.item, "rating_name": found.rating, "time_name": columns.time}
    feedback = "explicit"
    if rows.implicit:
        feedback = collabkit.Implicit(threshold=rows.threshold, counts=rows.counts, history=rows.history)
    sides = {
        name: None if file is None else read(file) for name, file in (("users", rows.users), ("items", rows.items))
    }
    sides |= {"user_features": kinds(rows.user_feature), "item_features": kinds(rows.item_feature)}
    context = kinds(columns.context) or ()
    splitter = splitter_of(columns)
    dls = collabkit.CollabDataLoaders.from_df(df, **names, **sides, context_features=context, feedback=feedback,
                                              splitter=splitter, seed=columns.seed, bs=bs)  # fmt: skip
    print(dls.train.dataset)
    return dls


def splitter_of(columns: Columns):
    """The splitter that is named.

    Raises:
        ValueError: there is no such splitter, or the share is invalid or has no effect.
    """
    share = 0.2 if columns.valid_pct is None else columns.valid_pct
    if not 0 < share < 1:
        hint = f": for {share:g} % give --valid-pct {share / 100:g}" if 1 < share < 100 else ""
        hint = ": to train on all rows in the end, give --refit" if share == 0 else hint
        raise ValueError(f"--valid-pct must lie strictly between 0 and 1, got {share:g}{hint}")
    if columns.split == "random":
        return collabkit.splits.random_split(share, seed=columns.seed)
    if columns.split == "time":
        return collabkit.splits.time_split(share)
    if columns.split == "last":
        if columns.valid_pct is not None:
            raise ValueError(f"--split last holds out the last row of each user: --valid-pct {share:g} is without "
                             "effect; leave it out, or give --split time")  # fmt: skip
        return collabkit.splits.leave_last_out(1)
    raise ValueError(f"--split must be one of random, time, last, got {columns.split!r}")


def _check(rows: Rows) -> None:
    named = [f"--{name}" for name in ("threshold", "counts", "history") if getattr(rows, name) is not None]
    if named and not rows.implicit:
        raise ValueError(f"{', '.join(named)}: only with --implicit")
    for side in ("user", "item"):
        if getattr(rows, f"{side}_feature") and getattr(rows, f"{side}s") is None:
            raise ValueError(f"--{side}-feature names columns of a table: give it by --{side}s")


def kinds(texts: list[str] | None) -> dict | None:
    """`column` and `column:kind` as a dict."""
    return {column: kind or None for column, _, kind in (text.partition(":") for text in texts)} if texts else None
