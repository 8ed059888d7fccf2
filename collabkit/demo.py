"""What `collabkit demo` does: the main job from data to artefact, each step with a visible result."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd

from collabkit.baselines import EASE, ItemKNN, Popularity
from collabkit.callbacks import ConsoleProgress
from collabkit.comparison import compare
from collabkit.console import print_evaluation, print_heading, print_table
from collabkit.dataloaders import CollabDataLoaders
from collabkit.datasets import RatingsData, movielens, movielens_name, synthetic
from collabkit.interactions import CollabWarning
from collabkit.interpret import CollabInterpretation
from collabkit.learner import CollabLearner, collab_learner
from collabkit.plots import plot_losses
from collabkit.recipes import Recipe, rating_recipe
from collabkit.splits import cold_items, leave_last_out, random_split

__all__ = ["run_demo", "fit_on_console", "default_y_range"]


def run_demo(data: Path | None, out: Path, *, seed: int = 42) -> CollabLearner:
    """Train on MovieLens or the generated sample, print what was learned, write plots and the artefact into `out`.

    Args:
        data: a MovieLens folder, or None for the generated sample.
        out: folder, made where needed.
        seed: of the split, the weights and the training.

    Returns:
        The trained learner.
    """
    matplotlib.use("Agg")  # files only, no window
    started = time.perf_counter()
    source = synthetic(seed=seed) if data is None else movielens(movielens_name(data), data)
    print(source)
    recipe = rating_recipe(len(source.ratings))
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
    dls = CollabDataLoaders.from_df(source.ratings, **names, seed=seed, bs=recipe.bs)
    print_heading(f"Training CollFilter: {recipe}")
    learn = fit_on_console(dls, recipe)
    _say_quality(learn)
    _say_recommendations(learn, source.ratings)
    _say_biases_and_neighbours(learn)
    _say_ranking(source.ratings, seed)
    _say_newcomers(source, recipe, seed)
    _write(learn, out)
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")
    return learn


def fit_on_console(dls: CollabDataLoaders, recipe: Recipe, y_range: tuple[float, float] | None = None) -> CollabLearner:
    """A `CollFilter` learner trained by `recipe`, with a line of losses an epoch; `y_range` defaults by the ratings."""
    y_range = default_y_range(dls) if y_range is None else y_range
    learn = collab_learner(dls, n_factors=recipe.n_factors, y_range=y_range, cbs=ConsoleProgress())
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(recipe.n_epoch, recipe.lr, wd=recipe.wd)
    return learn


def _say_quality(learn: CollabLearner) -> None:
    print_heading("Quality on the validation part (a random 20 % of the ratings)")
    print_evaluation(learn.evaluate())


def _say_recommendations(learn: CollabLearner, ratings: pd.DataFrame) -> None:
    counts = ratings["user"].value_counts()
    user = (counts - counts.median()).abs().sort_index().idxmin()  # somebody of average activity
    liked = ratings[ratings["user"] == user].sort_values(["rating", "title"], ascending=[False, True]).head(10)
    print_heading(f"Recommendations for user {user}, who gave {counts[user]} ratings")
    top = learn.recommend(user, k=10)
    side = {"rank": top["rank"], "recommended": top["title"], "predicted": top["score"].map("{:.2f}".format)}
    side |= {"liked": liked["title"].to_numpy(), "rated": liked["rating"].to_numpy()}
    print_table(pd.DataFrame(side), "Top 10, beside what the user liked best")


def _say_biases_and_neighbours(learn: CollabLearner) -> None:
    interp = CollabInterpretation.from_learner(learn)
    print_heading("What the model learned")
    print_table(interp.item_bias(5), "Best items whatever the taste (largest bias)")
    print_table(interp.item_bias(5, largest=False), "Worst items whatever the taste (smallest bias)")
    title = interp.item_bias(None).sort_values("n_ratings", ascending=False)["title"].iloc[0]
    print_table(learn.similar_items(title, 5), f"Nearest neighbours of {title}")


def _say_ranking(ratings: pd.DataFrame, seed: int) -> None:
    """The same table as events: each user's last one is to be found among all items not seen before."""
    print_heading("The same data as clicks: who finds each user's last item among all?")
    timed = "timestamp" in ratings.columns
    names = {"user_name": "user", "item_name": "title", "time_name": "timestamp" if timed else None}
    splitter = leave_last_out() if timed else random_split(0.1, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # of users whose last events are at one time
        dls = CollabDataLoaders.from_df(ratings, **names, feedback="implicit", splitter=splitter, seed=seed)
    learn = collab_learner(dls, n_factors=16)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(reg=0.02)
    models = {"fit_als": learn, "EASE": EASE(), "ItemKNN": ItemKNN(), "popularity": Popularity()}
    table = compare(list(models.values()), names=list(models), k=10, metrics=["HitRate", "NDCG"])
    table = table.drop(columns=["diff_low", "diff_high"]).reset_index()
    print_table(table, "All items ranked (95 % interval over users)")


def _say_newcomers(source: RatingsData, recipe: Recipe, seed: int) -> None:
    """Films that training has not met, by their genres and year; and a new person, by a few answers."""
    print_heading("What nobody has rated, and who has just arrived")
    names = {"user_name": "user", "item_name": "title", "rating_name": "rating"}
    features = {"items": source.items, "item_features": {"year": "binned", "genres": "multi"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # which films are held out, and what their tables lack
        options = {"splitter": cold_items(0.1, seed=seed), "seed": seed, "bs": recipe.bs}
        dls = CollabDataLoaders.from_df(source.ratings, **names, **features, **options)
    learn = collab_learner(dls, n_factors=recipe.n_factors, y_range=default_y_range(dls))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(recipe.n_epoch, recipe.lr, wd=recipe.wd)
    table = learn.evaluate(by="cold").loc["cold item"].loc[["RMSE"], ["value", "low", "high", "user+item bias", "n"]]
    print_table(table.reset_index(), "A tenth of the films held out entirely, predicted from genres and year")
    questions = learn.questionnaire(3)
    print_table(questions, "A new person is asked about the films that tell most")
    rating = dls.train.dataset.rating
    high, low, lists = float(rating.max()), float(rating.min()), {}
    people = {"loves the first, not the others": (high, low, low), "the reverse": (low, high, high)}
    for name, answers in people.items():
        history = dict(zip(questions["title"], answers, strict=True))
        lists[name] = learn.recommend(history=history, k=5)["title"]
    print_table(pd.DataFrame({"rank": range(1, 6), **lists}), "What two people get after three answers")


def _write(learn: CollabLearner, out: Path) -> None:
    """The plots and the artefact, into `out`."""
    print_heading("Files")
    out.mkdir(parents=True, exist_ok=True)
    interp = CollabInterpretation.from_learner(learn)
    values = pd.DataFrame([v[:2] for v in learn.recorder.values], columns=["train_loss", "valid_loss"])
    history = values.assign(epoch=range(1, len(values) + 1))
    plots = {
        "losses.png": lambda: plot_losses(history),
        "pca_map.png": lambda: interp.plot_pca(50),
        "item_bias.png": lambda: interp.plot_bias(15),
    }
    for name, draw in plots.items():
        figure = draw().figure
        figure.savefig(out / name, dpi=120)
        plt.close(figure)
        print(f"  {out / name}")
    folder = learn.export((out / "artefact").resolve())
    user = learn.dls.train.dataset.users[1]
    print(f"  {out / folder.name}/  (try: collabkit recommend {out / folder.name} --user {user})")


def default_y_range(dls: CollabDataLoaders) -> tuple[float, float]:
    """A range a little wider than the training and validation ratings: a tenth of their spread on either side."""
    ratings = [part.rating for part in (dls.train.dataset, dls.valid.dataset)]
    low, high = min(float(r.min()) for r in ratings), max(float(r.max()) for r in ratings)
    margin = 0.1 * (high - low) or 0.5
    return low - margin, high + margin
