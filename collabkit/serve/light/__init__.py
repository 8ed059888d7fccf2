"""The light runtime: an artefact's answers with NumPy alone, its arrays mapped into memory that processes share.

`Light` answers what `Recommender` answers, as lists of dicts; it loads neither torch nor pandas nor fastai. `arrays`
maps files, `ids` looks ids up, `events` has what is known about users, `scorers` gives scores, `fold` rows for
histories, `ranking` the best of scores, `why` the shares of past items, `asked` reads what a caller gives.
"""

from collabkit.serve.light.runtime import Light

__all__ = ["Light"]
