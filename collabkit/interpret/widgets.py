"""`QuestionnaireWidget`: a notebook form that asks a new user about a few items and shows how the list changes."""

from html import escape

import numpy as np
import pandas as pd

from collabkit.data.frames import to_pandas
from collabkit.serve import Recommender
from collabkit.serve.recommender import as_recommender

__all__ = ["QuestionnaireWidget"]

_UNKNOWN = "not known"


class QuestionnaireWidget:
    """A form with items to rate, next to the resulting list; each answer folds the user in again.

    A notebook shows it when it is the value of a cell. `answers` and `recommendations` hold the displayed data.

    Args:
        learn: a `CollabLearner` or a `Recommender`.
        n: number of items to ask about.
        k: length of the list.
        by: how the items are chosen; see `Recommender.questionnaire`.
        choices: the ratings to choose from; default the distinct ratings of the training data, at most 10.

    Raises:
        ImportError: ipywidgets is not installed.

    Example:
        >>> QuestionnaireWidget(learn, n=8)  # doctest: +SKIP
    """

    def __init__(self, learn, n: int = 10, *, k: int = 10, by: str = "information", choices=None):
        try:
            import ipywidgets
        except ImportError as error:
            raise ImportError("the questionnaire is shown by ipywidgets: pip install ipywidgets") from error
        self.recommender: Recommender = as_recommender("QuestionnaireWidget", learn)
        self.k, self.answers = k, {}
        self.questions = to_pandas(self.recommender.questionnaire(n, by=by))
        ratings = self.recommender.train.rating
        if choices is None and ratings is None:
            choices = ["yes"]
        elif choices is None:  # at most ten of the ratings, both ends among them
            values = np.unique(ratings)
            choices = values[np.linspace(0, len(values) - 1, min(10, len(values))).round().astype(int)].tolist()
        self.buttons = {}
        rows = [ipywidgets.HTML("<b>Do you know these, and how do you like them?</b>")]
        for item in self.questions[self.recommender.columns.item]:
            options = [(_UNKNOWN, None), *((f"{c:g}" if isinstance(c, (int, float)) else c, c) for c in choices)]
            button = ipywidgets.ToggleButtons(options=options, value=None, style={"button_width": "auto"})
            button.observe(lambda change, item=item: self.answer(item, change["new"]), names="value")
            self.buttons[item] = button
            rows.append(ipywidgets.VBox([ipywidgets.Label(str(item)), button]))
        self.shown = ipywidgets.HTML()
        self.recommendations = self._list()
        self.shown.value = self._table(self.recommendations, None)
        self.view = ipywidgets.HBox([ipywidgets.VBox(rows), self.shown])

    def answer(self, item, rating) -> None:
        """Set an answer, None for "not known", and show the new list."""
        if rating is None:
            self.answers.pop(item, None)
        else:
            self.answers[item] = rating
        before, self.recommendations = self.recommendations, self._list()
        self.shown.value = self._table(self.recommendations, before)

    def _list(self) -> pd.DataFrame:
        """The list for the answers so far; before the first one, the list of an unknown user."""
        rec = self.recommender
        asked = list(self.questions[rec.columns.item])
        if not self.answers:
            return to_pandas(rec.default_list(self.k, exclude=asked))
        history = list(self.answers) if rec.train.rating is None else self.answers
        exclude = [item for item in asked if item not in self.answers]
        return to_pandas(rec.recommend(history=history, k=self.k, exclude=exclude))

    def _table(self, now: pd.DataFrame, before: pd.DataFrame | None) -> str:
        """The list as HTML, with each item's move since the last one."""
        name = self.recommender.columns.item
        old = {} if before is None else dict(zip(before[name], before["rank"], strict=True))
        lines = []
        for item, rank, score in zip(now[name], now["rank"], now["score"], strict=True):
            move = "" if before is None else _move(old.get(item), rank)
            lines.append(f"<tr><td>{rank}</td><td>{escape(str(item))}</td><td>{score:.2f}</td><td>{move}</td></tr>")
        n = len(self.answers)
        title = f"Your list after {n} answer{'s' * (n != 1)}"
        head = f"<tr><th></th><th>{escape(str(name))}</th><th>score</th><th></th></tr>"
        return f"<b>{title}</b><table>{head}{''.join(lines)}</table>"

    def _ipython_display_(self):
        from IPython.display import display

        display(self.view)


def _move(old: int | None, rank: int) -> str:
    if old is None:
        return "new"
    return "" if old == rank else f"&uarr; {old - rank}" if old > rank else f"&darr; {rank - old}"
