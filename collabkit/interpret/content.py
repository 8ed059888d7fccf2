"""Which words of a text, and which regions of a picture, raise an item's score."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from collabkit.data.query import Query
from collabkit.data.runs import Runs
from collabkit.interpret.plots import plot_bars
from collabkit.models.base import evaluating
from collabkit.models.feature_rows import FieldRows

__all__ = ["explain_content", "plot_content"]

ADDED = "added to the score"
MOST_USERS = 200  # whose mean score stands for an average user

# The methods of `CollabInterpretation` that are about content.


def explain_content(interp, item, feature, content=None, *, user=None, grid: int = 4, context=None) -> pd.DataFrame:
    """What each word of an item's text, or each region of its picture, adds to its score.

    For the encoder `'bag'` it is exactly the word's share in the mean: the values add up to what the text adds, as far
    as the score is linear in it. For the other encoders it is the drop of the score when the word is left blank, or the
    region gets the picture's mean colour (occlusion: Zeiler and Fergus, "Visualizing and understanding convolutional
    networks", 2014, section 4.2). Occlusion values need not add up.

    Args:
        item: an external id.
        feature: the name of an item feature of kind `'text'` or `'image'` with a trained encoder.
        content: the text, or picture, in place of the item's own. A text is always needed: models keep hashes of
            words. Default the item's picture.
        user: an external id, the user of the score; default the mean of up to 200 users.
        grid: number of regions in each direction into which a picture is divided.
        context: for a model with context, the moment, as in `Recommender.predict`.

    Returns:
        DataFrame with one row per word (`word`) or a region (`top`, `left`, `bottom`, `right` in pixels of the picture
        that the encoder sees), and `value` in logits; `attrs['score']` is the score with all of them.

    Raises:
        TypeError: the model has no item features.
        ValueError: there is no such feature with an encoder; no content is given or known.
        KeyError: an unknown id.
    """
    model, field = interp.model, _field(interp, feature)
    at = torch.from_numpy(interp.train.items.encode([item], unknown="raise"))
    whole, content = _contents(field, int(at[0]), content, item)
    table, places = field.field.by_kind.parts(field.field, content, grid)
    users = _some_users(interp, user)
    with torch.no_grad(), evaluating(model):
        numbers = [field.encoder(whole), field.encoder.without(whole, places)] if places else [field.encoder(whole)]
        asked = model.user_rows(interp.recommender.query(users, context).to(model.device))
        scores = torch.tensor([_score(interp, field, at, row, asked, len(users)) for row in torch.cat(numbers)])
    table["value"] = (scores[0] - scores[1:]).numpy()
    table.attrs["score"] = float(scores[0])
    return table


def plot_content(interp, item, feature, content=None, *, ax: Axes | None = None, **options) -> Axes:
    """Plot a picture with what each region adds to the score (red: raises it), or bars for the words of a text.

    Args:
        item, feature, content: as in `explain_content`.
        ax: where to draw; a new figure by default.
        options: other arguments of `explain_content`.
    """
    table = explain_content(interp, item, feature, content, **options)
    if "word" in table:
        ax = plot_bars(table, "value", "word", ax=ax)
        ax.set(title=str(item), xlabel=ADDED)
        return ax
    field, at = _field(interp, feature), interp.train.items.encode([item], unknown="raise")[0]
    pixels = _contents(field, int(at), content, item)[0].values[0].cpu().numpy().transpose(1, 2, 0)
    ax = ax or plt.subplots(figsize=(4.5, 4), layout="constrained")[1]
    ax.imshow(pixels, extent=(0, pixels.shape[1], pixels.shape[0], 0))
    n, most = round(len(table) ** 0.5), max(float(table["value"].abs().max()), 1e-9)
    heat = table["value"].to_numpy().reshape(n, n)
    shown = ax.imshow(heat, cmap="coolwarm", vmin=-most, vmax=most, alpha=0.5, extent=(0, *pixels.shape[1::-1], 0))
    ax.figure.colorbar(shown, ax=ax, label=ADDED)
    ax.set(title=str(item), xticks=[], yticks=[])
    return ax


def _field(interp, feature) -> FieldRows:
    rows = interp.model.item_side.features
    if rows is None:
        raise TypeError("the model has no item features")
    found = {field.field.name: field for field in rows.fields if field.encoder is not None}
    if feature not in found:
        raise ValueError(
            f"there is no item feature {feature!r} with a trained encoder; these have one: {sorted(found)}"
        )
    return found[feature]


def _contents(field: FieldRows, at: int, content, item) -> tuple[Runs, object]:
    """One row of contents on the model's device, and the content."""
    if content is None and field.field.kind == "text":
        raise ValueError(f"the model keeps hashes of words: give the text of {item!r}, content=...")
    own = Runs(field.start, field.codes).of(torch.tensor([at], device=field.start.device))
    if content is None:
        whole = own
    else:
        whole = field.field.by_kind.encode(field.field, pd.Series([content], index=[item], dtype=object))[0]
    if len(whole.values) == 0:
        raise ValueError(f"{item!r} has no readable content in {field.field.name!r}")
    return whole.to(field.start.device), content


def _some_users(interp, user) -> Tensor:
    if user is not None:
        return torch.from_numpy(interp.train.users.encode([user], unknown="raise"))
    trained = interp._trained("user")
    return trained[np.linspace(0, len(trained) - 1, min(MOST_USERS, len(trained))).astype(int)]


def _score(interp, field: FieldRows, at: Tensor, numbers: Tensor, asked: tuple[Tensor, ...], n: int) -> float:
    """The mean score of the item at `at` `(1,)` for `n` users, seen with `numbers` `(size,)` in the field."""
    model, side = interp.model, interp.model.item_side
    with field.showing(int(at[0]), numbers):
        query: Tensor | Query = at.to(model.device)
        if side.can_write and int(interp.train.counts("item")[at]) == 0:  # its own row is what its content predicts
            query = Query(query, rows=side.features.cold_rows(query))
        rows = tuple(part.expand(n, -1) for part in model.item_rows(query))
        return float(model.interact(asked, rows).mean())
