"""The light runtime: recommendations from an artefact with NumPy alone, with arrays in memory shared by processes.

`Light` has the methods of `Recommender` and returns lists of dicts; it loads neither torch nor pandas nor fastai.
`arrays` maps files, `ids` looks ids up, `events` has the events of users, `scorers` computes scores, `fold` rows for
histories, `ranking` the best scores, `why` the shares of past items, and `asked` checks the caller's arguments.
"""

from collabkit.serve.light.runtime import Light

__all__ = ["Light"]
