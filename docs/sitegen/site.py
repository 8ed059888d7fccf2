"""The pages of the site and how they link to each other, to the API and to the sources."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sitegen.markdown import fence, link_names, map_targets

__all__ = ["BuildError", "Site"]

_IMAGES = {".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"}

_LANGUAGES = {".py": "python", ".md": "markdown", ".toml": "toml", ".cfg": "ini", ".yml": "yaml", ".sh": "bash"}


class BuildError(Exception):
    """Something in the repository that the site cannot be built from; the message says what to do."""


@dataclass
class Site:
    """Collects pages in `folder`; paths of pages are relative to it, paths of sources to the repository's `root`."""

    root: Path
    folder: Path
    pages: dict[str, str] = field(default_factory=dict)  # source file -> page
    names: dict[str, str] = field(default_factory=dict)  # public name -> page#anchor
    sources: set[str] = field(default_factory=set)  # files that have a page of highlighted source
    problems: list[str] = field(default_factory=list)

    def add(self, source: str, page: str) -> None:
        """Announce that `source` is shown as `page`, so that links to it work wherever they are written."""
        taken = [s for s, p in self.pages.items() if p == page and s != source]
        if taken:
            raise BuildError(f"{source} and {taken[0]} would both become the page {page}; rename one of them")
        self.pages[source] = page

    def write(
        self, source: str, text: str, *, files: Iterable[str] = (), names: Mapping[str, str] | None = None
    ) -> None:
        """Write the page of `source`: links between the repository's files become links between pages, public names
        become links to the API (to `names` first), `files` of the page itself stay as they are."""
        page, own = self.pages[source], set(files)
        text = map_targets(text, lambda target: target if target in own else self._resolve(target, source, page))
        here = posixpath.dirname(page)
        targets = {name: _relative(target, here) for name, target in (self.names | (names or {})).items()}
        self.put(page, link_names(text, targets))

    def put(self, path: str, content: str | bytes) -> None:
        """Write a file of the site's folder."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def write_sources(self) -> None:
        """The pages of highlighted source."""
        for path in sorted(self.sources):
            text = (self.root / path).read_text(encoding="utf-8")
            language = _LANGUAGES.get(Path(path).suffix, "text")
            block = fence(text.rstrip("\n"), f'{{ .{language} linenums="1" .no-select }}')
            front = f"---\ntitle: {path}\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n"
            self.put(f"source/{path}.md", f"{front}# {path} {{ .source-title }}\n\n{block}\n")

    def _resolve(self, target: str, source: str, page: str) -> str:
        """The target of a link in `source`, written relative to the repository's files, as seen from `page`."""
        if re.match(r"^([a-z][a-z+.-]*:|#|//)", target):
            return target
        path, _, fragment = target.partition("#")
        anchor = f"#{fragment}" if fragment else ""
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        here = posixpath.dirname(page)
        file = self.root / wanted
        if file.is_dir() and (file / "README.md").exists():
            wanted, file = f"{wanted}/README.md", file / "README.md"
        if wanted in self.pages:
            return _relative(self.pages[wanted], here) + anchor
        if not file.is_file():
            what = "is a folder; link to a file in it" if file.is_dir() else "does not exist"
            self.problems.append(f"{source} links to {target}, but {wanted} {what}")
            return target
        if file.suffix in _IMAGES:
            self.put(f"assets/{wanted}", file.read_bytes())
            return _relative(f"assets/{wanted}", here)
        self.sources.add(wanted)
        line = re.sub(r"^#L(\d+)$", r"#__codelineno-0-\1", anchor)
        return _relative(f"source/{wanted}.md{line}", here)


def _relative(target: str, folder: str) -> str:
    path, hash_, anchor = target.partition("#")
    return posixpath.relpath(path, folder or ".") + hash_ + anchor
