"""What `collabkit train` does: a rating model by the recipe for its rows, or any model of events and side tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import collabkit
from collabkit.cli.runs import Columns, Rows, chosen, kinds, loaders, model_named, record, splitter_of, write
from collabkit.data.processes import launched

__all__ = ["train_model", "train_ratings"]


def train_ratings(
    ratings: Path, out: Path, columns: Columns, fit: dict, y_range: tuple[float, float] | None, cache: Path | None,
    refit: bool,
) -> None:  # fmt: skip
    """`CollFilter` on ratings, by the processes that were launched.

    Args:
        fit: `n_factors`, `n_epoch`, `lr`, `wd` and `bs`, those that were named.
        y_range: default by the ratings.
        cache: folder for encoded columns, of Parquet that is larger than memory.
        refit: whether what is written was trained anew on all rows.
    """
    from collabkit.cli.console import print_evaluation
    from collabkit.cli.demo import fit_on_console
    from collabkit.data.tables import name_columns, with_dates
    from collabkit.train.recipes import rating_recipe

    if cache is not None:
        from collabkit.datasets.parquet import head_of, row_count

        df, n_rows = head_of(ratings), row_count(ratings)
    else:
        df = with_dates(collabkit.datasets.read_interactions(ratings), columns.time)
        n_rows = len(df)
    recipe = replace(rating_recipe(n_rows), **fit)
    found = name_columns(df, columns.user, columns.item, columns.rating, columns.time, rated=True)
    first = launched()[0] == 0
    speak = print if first else _say_nothing
    speak(f"columns: user {found.user!r}, item {found.item!r}, rating {found.rating!r}")
    names = {"user_name": found.user, "item_name": found.item, "rating_name": found.rating, "time_name": columns.time}
    names |= {"context_features": kinds(columns.context) or (), "splitter": splitter_of(columns)}
    names |= {"seed": columns.seed, "bs": recipe.bs}
    if cache is None:
        dls = collabkit.CollabDataLoaders.from_df(df, **names)
    else:
        dls = collabkit.CollabDataLoaders.from_parquet(ratings, stream=True, cache=cache, **names)
    speak(f"{dls.train.dataset}\n{recipe}")
    speak("model: CollFilter")
    learn = fit_on_console(dls, recipe, y_range)
    with learn.distrib_ctx():
        table = learn.evaluate()
        if first:
            print_evaluation(table)
        write(chosen(learn, refit, speak).export, out, speak)
    if first:
        record(out)


def train_model(
    ratings: Path,
    out: Path,
    columns: Columns,
    rows: Rows,
    model: str | None,
    fit: dict,
    y_range: tuple[float, float] | None,
    refit: bool,
) -> None:
    """What `train` does for events, or with side tables or another model.

    Args:
        fit: `n_factors`, `n_epoch`, `lr`, `wd` and `bs`, those that were named.
        y_range: default by the ratings.
        refit: whether what is written was trained anew on all rows.

    Raises:
        ValueError: an option has no effect on this model, or on events.
    """
    from collabkit.cli.console import OPTIONS, print_evaluation
    from collabkit.models import CollFilter
    from collabkit.models.base import option_names
    from collabkit.models.closed_form import ClosedForm
    from collabkit.train.callbacks import ConsoleProgress
    from collabkit.train.choose import usual_range

    cls = model_named(model)
    dls = loaders(ratings, columns, rows, bs=fit.get("bs"))
    if y_range is not None and dls.feedback != "explicit":
        raise ValueError(
            f"--y-range {y_range[0]} {y_range[1]} bounds predicted ratings, and events have none: leave it out"
        )
    if cls is not None and issubclass(cls, ClosedForm):
        given = {**fit, **({} if y_range is None else {"y_range": y_range})}
        if odd := [f"--{OPTIONS.get(name, name)}" for name in given if name != "bs"]:
            raise ValueError(f"{cls.__name__} is fitted in one go, so that {', '.join(odd)} has no effect")
        print(f"model: {cls.__name__}")
        learn = cls().fit(dls)
    else:
        options = {name: fit[name] for name in ("n_factors",) if name in fit}
        if dls.feedback == "explicit" and "y_range" in option_names(cls or CollFilter):
            options["y_range"] = usual_range(dls.data) if y_range is None else y_range
        elif y_range is not None:
            raise ValueError(f"--y-range bounds predicted ratings, and {cls.__name__} has no bounds: leave it out")
        learn = collabkit.collab_learner(dls, model=cls, cbs=ConsoleProgress(), **options)
        squares = _by_squares(learn)
        gradient = [f"--{name}" for name in ("lr", "wd", "bs") if name in fit] if squares else []
        how = ", solved by least squares" if squares and not gradient else ""
        if gradient:
            how = f", trained by gradient descent because of {', '.join(gradient)}; without, by least squares"
        print(f"model: {type(learn.model).__name__}{how}")
        with learn.no_bar(), learn.no_logging():
            if squares and not gradient:
                learn.fit_als(fit.get("n_epoch", 12))
            else:
                learn.fit_one_cycle(fit.get("n_epoch", 5), fit.get("lr", 5e-3), wd=fit.get("wd"))
    print_evaluation(learn.evaluate())
    write(chosen(learn, refit).export, out)
    record(out)


def _by_squares(learn) -> bool:
    """Whether least squares solve for the model."""
    from collabkit.models import CollFilter

    return type(learn.model) is CollFilter and not learn.dls.data.rated and "history" not in learn.model.needs


def _say_nothing(*_) -> None:
    """What all processes except the first print."""
