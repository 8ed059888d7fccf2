"""The served artefact: loaded, watched, and replaced as a whole."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from collabkit.serve.folder import CONFIG, BundleError, read_config, sha256, whole_folder
from collabkit.serve.web.answerer import Answerer, open_artefact
from collabkit.serve.web.catalogue import Catalogue

__all__ = ["Held", "Holder"]

log = logging.getLogger("collabkit.serve")


class Held:
    """One artefact with everything that requests need. A request keeps the artefact that it started with.

    Args:
        answerer: its engine.
        number: of the artefact since the start, 1 for the first.
    """

    def __init__(self, answerer: Answerer, number: int = 1):
        self.answerer, self.number, self.since = answerer, number, time.time()
        self.users, self.items = answerer.users, answerer.items
        self.catalogue = Catalogue(answerer)
        self.kept: dict = {}  # cache of the pages

    def ids(self, side: str, value):
        """The id of a side for a JSON value."""
        return (self.users if side == "user" else self.items).read(value)


class Holder:
    """The current artefact, and the watch for the next one.

    Args:
        folder: of the artefact; None if it never changes.
        load: returns the answerer of a folder.
        first: the answerer, if it is already loaded.
    """

    def __init__(
        self,
        folder: Path | None,
        first: Answerer | None = None,
        *,
        load: Callable[[Path], Answerer] = open_artefact,
    ):
        self.folder, self._load = folder, load
        self.told: Callable[[str], None] = lambda _: None  # called for each new artefact, with 'taken' or 'refused'
        self._looked = None if folder is None else signature(folder)
        self.now = Held(load(folder) if first is None else first)
        self.refused: dict | None = None

    async def watch(self, seconds: float) -> None:
        """Check for a new export at this interval, forever."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.look()
            except Exception:
                log.exception("looking for a new artefact failed")

    def _next(self) -> Held:
        check_whole(self.folder)
        return Held(self._load(self.folder), self.now.number + 1)

    async def look(self) -> bool:
        """Load a new export next to the current one and replace it; returns whether that was done."""
        found = await asyncio.to_thread(signature, self.folder)
        if found is None or found == self._looked:
            return False
        self._looked = found
        try:
            new = await asyncio.to_thread(self._next)
        except Exception as error:  # incomplete, of a newer version, or not an artefact: the current one stays
            self.refused = {"since": time.time(), "why": str(error)}
            self.told("refused")
            log.error("the new artefact is refused, the old one stays in use: %s", error)
            return False
        self.now, self.refused = new, None
        self.told("taken")
        log.info("artefact %d is served: %s", new.number, new.answerer.facts())
        return True


def check_whole(folder: Path) -> None:
    """Raise if any file of an artefact has changed, including files that the answerer does not read.

    Raises:
        BundleError: one is missing or has changed.
    """

    def check(at: Path, files: dict[str, Path]) -> None:
        for name, digest in read_config(at, files)["sha256"].items():
            if name != CONFIG and (name not in files or sha256(files[name]) != digest):
                raise BundleError(f"artefact {at} is damaged: {name} has changed since it was written; export it again")

    whole_folder(folder, check)


def signature(folder: Path) -> tuple | None:
    """A value that changes with any file of a folder; None if the folder does not exist."""
    try:
        with os.scandir(folder) as entries:
            stats = [(entry.name, entry.stat()) for entry in entries]
    except OSError:
        return None
    return tuple(sorted((name, at.st_ino, at.st_size, at.st_mtime_ns) for name, at in stats))
