"""Fetch a MovieLens archive from its publisher into the cache: checked, unpacked safely, complete or not at all."""

import os
import re
import stat
import tempfile
import zipfile
from pathlib import Path

__all__ = ["BASE_URL", "cache_folder", "fetch", "unpack"]

BASE_URL = "https://files.grouplens.org/datasets/movielens"
_TIMEOUT = 30  # seconds without an answer


def cache_folder() -> Path:
    """The folder for downloads, which may not exist yet: `$COLLABKIT_CACHE`, else `~/.cache/collabkit`."""
    return Path(os.environ.get("COLLABKIT_CACHE") or "~/.cache/collabkit").expanduser()


def fetch(archive: str, key_file: str, target: Path, *, md5: str | None = None, progress: bool = True) -> Path:
    """Download `BASE_URL/archive`, check it, and unpack its data folder as `target`.

    Args:
        archive: name of the zip, e.g. `'ml-100k.zip'`.
        key_file: a file that the wanted folder inside the zip holds, e.g. `'u.data'`.
        target: where the folder goes; it appears whole or not at all.
        md5: checksum of the zip; None asks the publisher's `archive.md5`.
        progress: show a progress bar on stderr.

    Returns:
        `target`.

    Raises:
        ConnectionError: the publisher cannot be reached or the transfer broke off.
        ValueError: the checksum does not match, or the zip is not what is expected.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    url = f"{BASE_URL}/{archive}"
    by_hand = f"Or download it by hand, unpack it and give the folder: movielens(..., path='FOLDER'). URL: {url}"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
        try:
            if md5 is None:  # GroupLens keeps it in a small file beside each zip: "MD5 (ml-25m.zip) = 6b51..."
                text = _retrieve(f"{archive}.md5", None, scratch).read_text(encoding="utf-8", errors="replace")
                found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
                if found is None:
                    raise ValueError(f"{url}.md5 holds no MD5 checksum: {text[:80]!r}.")
                md5 = found[0].lower()
            file = _retrieve(archive, f"md5:{md5}", scratch, progress)
        except OSError as error:  # the base of the errors of requests, too
            raise ConnectionError(f"{archive} could not be downloaded: {error}. Try again later. {by_hand}") from error
        except ValueError as error:  # pooch: the hash does not match; it has deleted the file
            raise ValueError(
                f"{archive} does not have the checksum that its publisher gives: {error} Nothing was kept. {by_hand}"
            ) from error
        return unpack(file, key_file, target)


def _retrieve(name: str, known_hash: str | None, folder: str, progress: bool = False) -> Path:
    """One file from `BASE_URL` into the folder; OSError when the transfer fails, ValueError on a wrong hash."""
    import pooch  # 0.1 s, and most sessions never download

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # pooch announces each file; the progress bar says enough
    try:
        downloader = pooch.HTTPDownloader(timeout=_TIMEOUT, progressbar=progress)
        return Path(pooch.retrieve(f"{BASE_URL}/{name}", known_hash, fname=name, path=folder, downloader=downloader))
    finally:
        logger.setLevel(level)


def unpack(archive: str | os.PathLike, key_file: str, target: Path) -> Path:
    """Unpack the folder of a zip that holds `key_file`, as `target`, in one step.

    An existing `target` is kept: another process was faster.

    Returns:
        `target`.

    Raises:
        ValueError: not a zip, damaged, a member that would land outside the folder, or no `key_file`.
    """
    # Unpacked beside the target, so that the rename stays within one file system and is atomic.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as scratch:
        try:
            with zipfile.ZipFile(archive) as zipped:
                for member in zipped.infolist():  # no absolute paths, `..`, drive letters, links
                    name = member.filename.replace("\\", "/")
                    link = stat.S_ISLNK(member.external_attr >> 16)
                    if name.startswith("/") or ".." in name.split("/") or ":" in name or link:
                        why = f"its member {member.filename!r} points outside the folder"
                        raise ValueError(f"{archive} is unsafe: {why}; not unpacked")
                zipped.extractall(scratch)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{archive} is not a complete zip file: {error}") from error
        found = sorted(Path(scratch).rglob(key_file), key=lambda p: len(p.parts))
        if not found:
            raise ValueError(f"{archive} holds no file {key_file}")
        try:
            found[0].parent.rename(target)
        except OSError:
            if not (target / key_file).is_file():
                raise
    return target
