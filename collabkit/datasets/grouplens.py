"""`movielens` and `movielens_folds`: the MovieLens data sets of GroupLens as tables with readable columns."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from collabkit.data.notices import near_match

from .container import RatingsData
from .download import cache_folder, fetch
from .tables import read_separated

__all__ = ["movielens", "movielens_folds", "movielens_name"]

_FIFTHS = ("u1", "u2", "u3", "u4", "u5")
_OCCUPATIONS = (  # ml-1m codes them 0..20, see its README
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip


@dataclass(frozen=True)
class _Edition:
    """The files of an edition; `files` are ratings, items and, if any, users and genre names."""

    folder: str
    layout: str
    files: tuple[str, ...]
    md5: str | None = None  # published by GroupLens beside the zip; None: changes over time, asked at download
    inner: str | None = None  # name of the folder inside the zip where it differs
    encoding: str = "utf-8"


_U, _CSV, _DAT = ("u.data", "u.item", "u.user", "u.genre"), ("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat")
_EDITIONS = {
    "100k": _Edition("ml-100k", "u", _U, "0e33842e24a9c977be4e0107933c0723", encoding="latin-1"),
    "1m": _Edition("ml-1m", "dat", (*_DAT, "users.dat"), "c4d9eecfca2ab87c1945afe126590906", encoding="latin-1"),
    "10m": _Edition("ml-10m", "dat", _DAT, "ce571fd55effeba0271552578f2648bd", inner="ml-10M100K"),
    "20m": _Edition("ml-20m", "csv", _CSV, "cd245b17a1ae2cc31bb14903e1204af3"),
    "25m": _Edition("ml-25m", "csv", _CSV, "6b51fb2759a8657d3bfcbfc42b592ada"),
    "32m": _Edition("ml-32m", "csv", _CSV, "d472be332d4daa821edc399621853b57"),
    "latest-small": _Edition("ml-latest-small", "csv", _CSV),
    "latest": _Edition("ml-latest", "csv", _CSV),
}


def movielens(name: str = "100k", path: str | os.PathLike | None = None, *, progress: bool = True) -> RatingsData:
    """Load a MovieLens data set (Harper and Konstan 2015, https://doi.org/10.1145/2827872) from disk or its publisher.

    The files are read from `path` if given, else from `$COLLABKIT_DATA/ml-<name>`, else from the cache
    (`$COLLABKIT_CACHE`, by default `~/.cache/collabkit`), into which they are downloaded on first use and checked
    against a checksum. The data belongs to GroupLens and may not be redistributed: see the README in its folder.

    Titles: some titles belong to more than one item (18 in ml-100k). They are not merged: each item with such a title
    gets its id appended, as in `'Chasing Amy (1997) [268]'`; all other titles stay unchanged.

    Args:
        name: `'100k'`, `'1m'`, `'10m'`, `'20m'`, `'25m'`, `'32m'`, `'latest-small'` or `'latest'`, optionally with the
            prefix `'ml-'`.
        path: a folder with the files, or with the sub-folder `ml-<name>`; then nothing is downloaded.
        progress: show a progress bar when downloading.

    Returns:
        `RatingsData`. `ratings`: `user, title, rating, timestamp, item` in the order of the file (`timestamp` only
        if the file has it; ratings are int64 if all are whole stars, else float64). `items`: `item, title, year` (from
        the title; missing if it has none), `genres`; includes items without ratings. `users` (100k and 1m): `user, age`
        (1m: lower end of an age group), `gender, occupation, zip_code`; None for the other editions.

    Raises:
        ValueError: an unknown name, a damaged file, or a wrong checksum.
        FileNotFoundError: the folder given lacks a file.
        ConnectionError: the download failed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / 'ratings.csv').write_text('userId,movieId,rating,timestamp\\n1,31,2.5,1260759144\\n')
        >>> _ = (folder / 'movies.csv').write_text('movieId,title,genres\\n31,Dangerous Minds (1995),Drama\\n')
        >>> print(movielens('latest-small', folder).ratings.to_string(index=False))
         user                  title  rating  timestamp  item
            1 Dangerous Minds (1995)     2.5 1260759144    31
    """
    edition = _edition(name)
    folder = _locate(edition, path, progress)
    items, file = _items(edition, folder), folder / edition.files[0]
    if edition.layout == "csv":
        ratings = _read_csv(file, "userId", "movieId", "rating", "timestamp")
    else:
        ratings = read_separated(file, "\t" if edition.layout == "u" else "::")
    return RatingsData(edition.folder, _with_titles(ratings, items, file), items, _users(edition, folder))


def movielens_name(path: str | os.PathLike) -> str:
    """The edition to read a MovieLens folder as, by the name of its ratings file: `'100k'`, `'1m'` or `'latest-small'`.

    Args:
        path: a folder with the files.

    Returns:
        A name for `movielens(name, path)`; editions of one format are read alike.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no ratings file.
    """
    by_file = {"u.data": "100k", "ratings.dat": "1m", "ratings.csv": "latest-small"}
    for file, name in by_file.items():
        if (Path(path) / file).is_file():
            return name
    raise FileNotFoundError(f"{path} is not a MovieLens folder: it has none of {', '.join(by_file)}")


def movielens_folds(
    name: str = "100k", path: str | os.PathLike | None = None, *, folds: Sequence[str] = _FIFTHS, progress: bool = True
) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Load the official train and test parts of MovieLens 100K, to compare with published figures.

    `u1` .. `u5` are five disjoint fifths (5-fold cross-validation); `ua` and `ub` hold out ten ratings per user.

    Args:
        name: `'100k'`, the only edition with official parts.
        path: as in `movielens`.
        folds: which ones.
        progress: show a progress bar when downloading.

    Returns:
        An iterator over `(fold name, train ratings, test ratings)`, with the columns of `movielens(...).ratings`.

    Raises:
        ValueError: another edition, or an unknown fold.
        FileNotFoundError: the folder lacks a file.

    Example:
        >>> for fold, train, test in movielens_folds('100k'):  # doctest: +SKIP
        ...     print(fold, len(train), len(test))
        u1 80000 20000
        ...
    """
    edition = _edition(name)
    if edition.layout != "u":
        raise ValueError(f"only '100k' has official folds, got {name!r}; split {name!r} yourself, with a seed")
    known = (*_FIFTHS, "ua", "ub")
    if isinstance(folds, str) or not set(folds) <= set(known):
        raise ValueError(f"folds must be a sequence of names from {', '.join(known)}, got {folds!r}")
    folder = _locate(edition, path, progress, *(f"{fold}.{part}" for fold in folds for part in ("base", "test")))
    items = _items(edition, folder)

    def read(file: Path) -> pd.DataFrame:
        return _with_titles(read_separated(file, "\t"), items, file)

    return ((fold, read(folder / f"{fold}.base"), read(folder / f"{fold}.test")) for fold in tuple(folds))


def _edition(name: str) -> _Edition:
    edition = _EDITIONS.get(str(name).lower().removeprefix("ml-"))
    if edition is None:
        raise ValueError(f"unknown MovieLens edition {name!r}: expected one of {', '.join(map(repr, _EDITIONS))}"
                         f"{near_match(name, _EDITIONS)}")  # fmt: skip
    return edition


def _locate(edition: _Edition, path: str | os.PathLike | None, progress: bool, *extra: str) -> Path:
    """The folder of the edition's files, downloaded if needed, after a check that all files exist."""
    if path is not None and not Path(path).expanduser().is_dir():
        raise FileNotFoundError(f"path={str(path)!r} is not a folder: give the folder that holds {edition.folder}")
    root = os.environ.get("COLLABKIT_DATA") or None if path is None else path
    places = [] if root is None else [Path(root).expanduser() / n for n in (edition.folder, edition.inner) if n]
    folder = next((place for place in places if place.is_dir()), None if path is None else Path(path).expanduser())
    if folder is None:
        folder = cache_folder() / edition.folder
        if not folder.is_dir():
            fetch(f"{edition.folder}.zip", edition.files[0], folder, md5=edition.md5, progress=progress)
    files = (*edition.files, *extra)
    missing = next((file for file in files if not (folder / file).is_file()), None)
    if missing:
        raise FileNotFoundError(
            f"{missing} is missing from {folder}: {edition.folder} needs {', '.join(files)}, "
            f"there or in a sub-folder {edition.folder}"
        )
    return folder


def _read_csv(file: Path, *columns: str, **options) -> pd.DataFrame:
    """The named columns of a CSV, the ids' under our names; a clear error when one is missing."""
    try:
        table = pd.read_csv(file, **options)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise ValueError(f"{file} lacks the columns {missing}: it has {list(table.columns)}")
    return table[list(columns)].rename(columns={"userId": "user", "movieId": "item"})


def _items(edition: _Edition, folder: Path) -> pd.DataFrame:
    """`item, title, year, genres`, titles made unique."""
    file = folder / edition.files[1]
    if edition.layout == "csv":
        items = _read_csv(file, "movieId", "title", "genres", keep_default_na=False)
    elif edition.layout == "dat":
        items = _read_text(file, "::", ("item", "title", "genres"), edition.encoding)
    else:  # u.item: id | title | release | video release | URL | one 0/1 flag a genre of u.genre
        lines = (folder / edition.files[3]).read_text(encoding=edition.encoding).split("\n")
        genres = np.array([line.split("|")[0] for line in lines if line.strip()])
        table = _read_text(file, "|", ("item", "title", "release", "video", "url", *genres), edition.encoding)
        table["genres"] = ["|".join(genres[row]) for row in table[list(genres)].to_numpy() == "1"]
        items = table[["item", "title", "genres"]].copy()
    items["item"] = _numbers(items["item"], file)
    # The last year in brackets: "2001: A Space Odyssey (1968)", "Land Before Time III (1995) (V)", "Rome (2005-2007)".
    year = items["title"].str.extract(r".*\(((?:18|19|20)\d\d)(?:[-–](?:\d{4})?)?\)", expand=False)
    items.insert(2, "year", pd.to_numeric(year).astype("Int64"))
    clash = items["title"].duplicated(keep=False)
    items.loc[clash, "title"] += " [" + items.loc[clash, "item"].astype(str) + "]"
    for column in ("item", "title"):
        if not items[column].is_unique:
            twice = items.loc[items[column].duplicated(), column].iloc[0]
            raise ValueError(f"{file} is damaged: the {column} {twice} occurs twice")
    return items


def _read_text(file: Path, separator: str, columns: tuple[str, ...], encoding: str) -> pd.DataFrame:
    """A small headerless file of text fields, all as strings; every line must have every field."""
    # Not splitlines(): that also splits at control characters which latin-1 text may hold, such as 0x85.
    lines = file.read_text(encoding=encoding).split("\n")
    rows = [line.split(separator) for line in lines if line]
    wrong = next((row for row in rows if len(row) != len(columns)), None)
    if wrong is not None or not rows:
        raise ValueError(
            f"{file} is damaged: expected {len(columns)} fields separated by {separator!r} "
            f"({', '.join(columns[:5])} ...), got {wrong}"
        )
    return pd.DataFrame(rows, columns=list(columns), dtype="str")


def _numbers(column: pd.Series, file: Path) -> pd.Series:
    try:
        return column.astype("int64")
    except ValueError as error:
        raise ValueError(f"{file} is damaged: column {column.name!r} must hold whole numbers: {error}") from error


def _users(edition: _Edition, folder: Path) -> pd.DataFrame | None:
    """`user, age, gender, occupation, zip_code` of 100k and 1m, None for the other editions."""
    if len(edition.files) < 3:
        return None
    file = folder / edition.files[2]
    columns = ("user", "age", "gender", "occupation", "zip_code")
    if edition.layout == "u":
        users = _read_text(file, "|", columns, edition.encoding)
    else:
        users = _read_text(file, "::", ("user", "gender", "age", *columns[3:]), edition.encoding)[[*columns]]
        users["occupation"] = np.array(_OCCUPATIONS)[_numbers(users["occupation"], file)]
    return users.assign(user=_numbers(users["user"], file), age=_numbers(users["age"], file))


def _with_titles(ratings: pd.DataFrame, items: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Ratings with the title of each item, columns in the order that data loaders expect."""
    rows = pd.Index(items["item"]).get_indexer(ratings["item"])
    if (rows < 0).any():
        unknown = ratings.loc[rows < 0, "item"].unique()
        raise ValueError(f"{file}: {len(unknown)} items have no entry among the movies, e.g. {unknown[:5].tolist()}")
    ratings["title"] = items["title"].array.take(rows)
    return ratings[[c for c in ("user", "title", "rating", "timestamp", "item") if c in ratings]]
