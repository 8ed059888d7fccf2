"""The `collabkit` command: demo, train, auto, tune, update, recommend, similar, evaluate, compare, serve."""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

import collabkit
from collabkit.cli import search
from collabkit.cli.runs import Columns, Refit, Rows, takes

__all__ = ["app", "main"]

app = typer.Typer(
    help="Recommender systems from the command line: train on a table of ratings, recommend, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_TABLE = "Ratings: .csv, .tsv, .parquet, RecBole .inter, MovieLens .dat/.data, or a folder of such files."
_MOMENT = "Context, as column=value, e.g. hour=20; repeat for more."
_PAST = "Instead of users: an item that a new user has met, or item=rating; repeat for more, the latest last."
_ENDS = "Lowest and highest prediction; default from the ratings."
_SOURCE = "A MovieLens folder (100k, 1m or latest-small); default the generated sample."
Table = Annotated[Path, typer.Argument(help=_TABLE, show_default=False)]
Plots = Annotated[Path, typer.Option("--out", "-o", help="Folder for the plots and the artefact.")]
Users = Annotated[list[str] | None, typer.Option("--user", "-u", help="User id; repeat for more. Default all.")]
Seed = Annotated[int, typer.Option(help="Seed of the split, the weights and the training.")]
Artefact = Annotated[Path, typer.Argument(help="Artefact folder, as written by `train`.", show_default=False)]
Top = Annotated[int, typer.Option("-k", help="Number of results.", min=1)]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write the table to this .csv or .parquet file.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"collabkit {collabkit.__version__}")
        raise typer.Exit


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help=_SOURCE)] = None, out: Plots = Path("demo-output"), seed: Seed = 42
) -> None:
    """Train a model and show what it learned: losses, metrics, recommendations, biases, neighbours, plots."""
    from collabkit.cli.demo import run_demo

    run_demo(data, out, seed=seed)


@app.command()
@takes(columns=Columns, rows=Rows)
def train(
    ratings: Table,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the artefact.")],
    columns,
    rows,
    factors: Annotated[int | None, typer.Option(help="Length of the factor vectors.", min=1)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of the one-cycle schedule.")] = None,
    wd: Annotated[float | None, typer.Option(help="Weight decay of the factors.")] = None,
    bs: Annotated[int | None, typer.Option(help="Rows per batch.", min=1)] = None,
    y_range: Annotated[tuple[float, float] | None, typer.Option(help=_ENDS)] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for encoded columns: reads Parquet that is larger than memory.")
    ] = None,
    nproc: Annotated[int, typer.Option(help="Processes that share each batch; --bs is the total.", min=1)] = 1,
    model: Annotated[str | None, typer.Option(help="A model's class, e.g. TwoTower, EASE; default CollFilter.")] = None,
    refit: Refit = False,
) -> None:
    """Train a model on a file and write the artefact.

    For ratings, training options that are not given come from the recipe for this number of rows. For events
    (--implicit), CollFilter is fitted by least squares; --lr, --wd or --bs has it trained by gradient descent instead.
    """
    from collabkit.data.processes import launched

    if (cache is not None or nproc > 1) and (rows != Rows() or model is not None):
        raise ValueError(
            "--cache and --nproc train CollFilter on ratings: with --implicit, side tables or --model leave them out, "
            "or train in Python: CollabDataLoaders.from_parquet(stream=True), learn.distrib_ctx()"
        )
    if nproc > 1 and launched()[1] == 1:
        from collabkit.cli.several import run_again

        run_again(nproc)
        return
    from collabkit.cli import training
    from collabkit.serve.artefact import check_target

    given = {"n_factors": factors, "n_epoch": epochs, "lr": lr, "wd": wd, "bs": bs}
    fit = {name: value for name, value in given.items() if value is not None}
    check_target(out.resolve())
    if rows != Rows() or model is not None:
        training.train_model(ratings, out, columns, rows, model, fit, y_range, refit)
    else:
        training.train_ratings(ratings, out, columns, fit, y_range, cache, refit)


@app.command()
def recommend(
    artefact: Artefact,
    user: Users = None,
    users: Annotated[
        Path | None, typer.Option(help="File or folder with the users (Parquet, CSV), of any number; needs --out.")
    ] = None,
    k: Top = 10,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="This .csv or .parquet file, or a new folder of Parquet parts.")
    ] = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Keep items the user has rated.")] = False,
    history: Annotated[list[str] | None, typer.Option(help=_PAST)] = None,
    why: Annotated[bool, typer.Option("--why", help="Add the past item that speaks most for each row.")] = False,
    context: Annotated[list[str] | None, typer.Option(help=_MOMENT)] = None,
    engine: Annotated[str, typer.Option(help="Who computes a folder of lists: local, ray or spark.")] = "local",
) -> None:
    """Print the top items of one, several or all users; writes block by block if --out is a folder."""
    streamed = out is not None and out.suffix == ""
    if engine != "local" and not streamed:
        raise ValueError(f"--engine {engine} writes lists to a new folder: give --out FOLDER")
    if users is not None and (user or not streamed):
        raise ValueError("--users is a file of many users, whose lists are written to a new folder: give --out FOLDER, "
                         "and no --user")  # fmt: skip
    if history and (user or users is not None or streamed):
        raise ValueError("--history is of one new person: leave out --user, --users and a folder as --out")
    from collabkit.cli.console import show
    from collabkit.serve.engines import lists_to

    options = {"filter_seen": not include_seen, "context": dict(map(_moment, context)) if context else None}
    options |= {"why": True} if why else {}
    if streamed and not user:
        print(f"lists written to {lists_to(engine, artefact, out, users, k, **options)}")
        return
    rec = collabkit.Recommender.load(artefact)
    if history:
        show(rec.recommend(history=_history(rec, history), k=k, **options), f"Top {k}", out)
        return
    chosen = None if not user else [_id(rec.users, text) for text in user]
    if streamed:
        print(f"lists written to {lists_to(engine, artefact, out, chosen, k, **options)}")
        return
    show(rec.recommend(chosen, k, **options), f"Top {k}", out)


@app.command()
def similar(
    artefact: Artefact,
    item: Annotated[str, typer.Argument(help="Item id, e.g. a title.", show_default=False)],
    k: Top = 10,
    out: Out = None,
) -> None:
    """Print the items most similar to an item."""
    from collabkit.cli.console import show

    rec = collabkit.Recommender.load(artefact)
    show(rec.similar_items(_id(rec.items, item), k), f"Nearest to {item}", out)


@app.command()
def evaluate(
    artefact: Artefact,
    ratings: Annotated[Path | None, typer.Argument(help="Test ratings; default the validation part.")] = None,
    k: Top = 10,
    metric: Annotated[list[str] | None, typer.Option(help="E.g. NDCG@10 or RMSE; repeat for more.")] = None,
    out: Out = None,
) -> None:
    """Evaluate rating errors and ranking metrics on held-out rows, with intervals and baselines."""
    from collabkit.cli.console import print_evaluation, show

    rec = collabkit.Recommender.load(artefact)
    on = "valid" if ratings is None else collabkit.datasets.read_interactions(ratings)
    table = rec.evaluate(on, k=k, metrics=metric or None)
    if out is None:
        print_evaluation(table)
    else:
        show(table.reset_index(), "Evaluation", out)


@app.command()
def serve(
    artefact: Artefact,
    host: Annotated[str, typer.Option(help="Address to bind; 0.0.0.0 for all interfaces.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.", min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(help="Processes, each with the artefact.", min=1)] = 1,
    watch: Annotated[bool, typer.Option("--watch", help="Load a new export at this path when it appears.")] = False,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that requests must send.")] = None,
    engine: Annotated[str, typer.Option(help="light, torch, or auto (light if it supports all requests).")] = "auto",
    max_in_flight: Annotated[int, typer.Option(help="Maximum requests in progress or waiting.", min=1)] = 10_000,
    max_seconds: Annotated[float, typer.Option(help="Seconds until a request is answered with 503.", min=0.01)] = 10.0,
    fd: Annotated[int | None, typer.Option(help="File descriptor of an open socket, as from systemd.", min=0)] = None,
) -> None:
    """Serve an artefact over HTTP, with a web page."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of NumPy: products this small are slower by several threads
    from collabkit.serve.app import Settings
    from collabkit.serve.web.server import run

    limits = {"in_flight": max_in_flight, "seconds": max_seconds}
    token = None if token_file is None else str(token_file.resolve())
    settings = Settings.of(artefact, watch=1.0 if watch else 0.0, engine=engine, token_file=token, **limits)
    run(settings, host=host, port=port, workers=workers, fd=fd)


search.add_commands(app)


def main() -> None:
    """Entry point of the `collabkit` command: errors end in one line and exit status 2, without a traceback."""
    first = os.environ.get("RANK", "0") == "0"  # of several processes, which all have the same to say
    warnings.showwarning = lambda message, kind, *_: _note(message, kind) if first else None
    try:
        app()
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        _say("collabkit", text)
        raise SystemExit(2) from error


def _note(message, kind: type[Warning]) -> None:
    """Print a warning of the library; those of other libraries are for programmers, who see them in Python."""
    if issubclass(kind, collabkit.CollabWarning):
        _say("note", message)


def _say(who: str, what) -> None:
    """Print a message of the library to standard error, in words of the command line."""
    from collabkit.cli.console import as_options  # which imports pandas

    print(f"{who}: {as_options(str(what))}", file=sys.stderr)


def _moment(text: str) -> tuple:
    """`column=value` as a pair; a value that reads as a number is one."""
    column, sign, value = text.partition("=")
    if not (column and sign):
        raise ValueError(f"--context must be column=value, e.g. hour=20, got {text!r}")
    try:
        return column, float(value)
    except ValueError:
        return column, value


def _history(rec, texts: list[str]) -> list | dict:
    """Items, or with `item=rating` what they were given."""
    if not rec.data.rated:
        return [_id(rec.items, text) for text in texts]
    pairs = [text.rpartition("=") for text in texts]
    try:
        return {_id(rec.items, item): float(rating) for item, _, rating in pairs}
    except ValueError:
        raise ValueError(f"--history must be item=rating, e.g. '{rec.items[1]}=4', as the model knows ratings; got "
                         f"{', '.join(map(repr, texts))}") from None  # fmt: skip


def _id(vocab, text: str):
    """A command-line word as an id of the vocabulary's type."""
    import pandas as pd

    if pd.api.types.is_integer_dtype(vocab.ids.dtype):
        if not text.lstrip("-").isdigit():
            raise ValueError(f"{vocab.name} ids are whole numbers (e.g. {vocab[1]}), got {text!r}")
        return int(text)
    kind = type(vocab[1])
    return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
