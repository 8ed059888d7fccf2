"""What `collabkit demo` does: the main job from data to artefact, each step with a visible result."""

import time
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd

from collabkit.cli.console import called, print_evaluation, print_heading, print_table
from collabkit.data.notices import CollabWarning
from collabkit.data.splits import cold_items, leave_last_out, random_split
from collabkit.datasets import RatingsData, movielens, movielens_name, synthetic
from collabkit.evaluate import compare
from collabkit.interpret.interpretation import CollabInterpretation
from collabkit.interpret.plots import plot_losses
from collabkit.models import EASE, ItemKNN, Popularity
from collabkit.train.callbacks import ConsoleProgress
from collabkit.train.choose import usual_range
from collabkit.train.dataloaders import CollabDataLoaders
from collabkit.train.learner import CollabLearner, collab_learner
from collabkit.train.recipes import Recipe, rating_recipe

__all__ = ["run_demo", "fit_on_console"]

_NAMES = {"user_name": "user", "item_name": "title", "rating_name": "rating"}


def run_demo(data: Path | None, out: Path, *, seed: int = 42) -> CollabLearner:
    """Train on MovieLens or the generated sample, print what was learned, write plots and the artefact into `out`.

    Args:
        data: a MovieLens folder, or None for the generated sample.
        out: folder, made where needed.
        seed: of the split, the weights and the training.
    """
    matplotlib.use("Agg")  # files only, no window
    started = time.perf_counter()
    source = synthetic(seed=seed) if data is None else movielens(movielens_name(data), data)
    print(source)
    recipe = rating_recipe(len(source.ratings))
    dls = CollabDataLoaders.from_df(source.ratings, **_NAMES, seed=seed, bs=recipe.bs)
    print_heading(f"Training CollFilter: {recipe}")
    learn = fit_on_console(dls, recipe)
    print_heading("Quality on the validation part (a random 20 % of the ratings)")
    print_evaluation(learn.evaluate())
    _say_recommendations(learn, source.ratings)
    _say_biases_and_neighbours(learn)
    _say_ranking(source.ratings, seed)
    _say_newcomers(source, recipe, seed)
    folder = _write(learn, out)
    print(f"\nDone in {time.perf_counter() - started:.0f} s. To look at it, and to serve it:")
    print(f"  {called()} serve {folder}")
    return learn


def fit_on_console(dls, recipe: Recipe, y_range: tuple[float, float] | None = None, cbs=ConsoleProgress):
    """A `CollFilter` learner trained by `recipe`, with one line of losses per epoch.

    `y_range` defaults to that of the ratings, and a tenth of their spread on either side.
    """
    y_range = usual_range(dls.data) if y_range is None else y_range
    learn = collab_learner(dls, n_factors=recipe.n_factors, y_range=y_range, cbs=cbs)
    with learn.distrib_ctx(), learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(recipe.n_epoch, recipe.lr, wd=recipe.wd)
    return learn


def _say_recommendations(learn: CollabLearner, ratings: pd.DataFrame) -> None:
    counts = ratings["user"].value_counts()
    user = (counts - counts.median()).abs().sort_index().idxmin()  # somebody of average activity
    liked = ratings[ratings["user"] == user].sort_values(["rating", "title"], ascending=[False, True]).head(10)
    print_heading(f"Recommendations for user {user}, who gave {counts[user]} ratings")
    top = learn.recommend(user, k=10)
    side = {"rank": top["rank"], "recommended": top["title"], "predicted": top["score"].map("{:.2f}".format)}
    side |= {"liked": liked["title"].to_numpy(), "rated": liked["rating"].to_numpy()}
    print_table(pd.DataFrame(side), "Top 10, next to the user's favourites")


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
    """Films that are not in training, by their genres and year; and a new user, by a few answers."""
    print_heading("New films and new users")
    features = {"items": source.items, "item_features": {"year": "binned", "genres": "multi"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollabWarning)  # which films are held out, and what their tables lack
        options = {"splitter": cold_items(0.1, seed=seed), "seed": seed, "bs": recipe.bs}
        dls = CollabDataLoaders.from_df(source.ratings, **_NAMES, **features, **options)
    learn = fit_on_console(dls, recipe, cbs=None)
    table = learn.evaluate(by="cold").loc["cold item"].loc[["RMSE"], ["value", "low", "high", "user+item bias", "n"]]
    print_table(table.reset_index(), "A tenth of the films held out entirely, predicted from genres and year")
    questions = learn.questionnaire(3)
    print_table(questions, "Questions for a new user: the most informative films")
    low, high = (float(end) for end in dls.train.dataset.rating.aminmax())
    lists = pd.DataFrame({"rank": range(1, 6)})
    people = {"loves the first, not the others": (high, low, low), "the reverse": (low, high, high)}
    for name, answers in people.items():
        history = dict(zip(questions["title"], answers, strict=True))
        lists[name] = learn.recommend(history=history, k=5)["title"]
    print_table(lists, "The lists of two users after three answers")


def _write(learn: CollabLearner, out: Path) -> Path:
    print_heading("Files")
    out.mkdir(parents=True, exist_ok=True)
    interp = CollabInterpretation.from_learner(learn)
    history = pd.DataFrame([v[:2] for v in learn.recorder.values], columns=["train_loss", "valid_loss"])
    history["epoch"] = range(1, len(history) + 1)
    plots = {"losses": plot_losses(history), "pca_map": interp.plot_pca(50), "item_bias": interp.plot_bias(15)}
    for name, axes in plots.items():
        figure, file = axes.figure, out / f"{name}.png"
        figure.savefig(file, dpi=120)
        plt.close(figure)
        print(f"  {file}")
    folder = learn.export((out / "artefact").resolve())
    user = learn.dls.train.dataset.users[1]
    print(f"  {out / folder.name}/  (try: {called()} recommend {out / folder.name} --user {user})")
    return out / folder.name
