"""Checks of the finished HTML: nothing is loaded from another host, and every internal link arrives."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

__all__ = ["broken_links", "check_site", "remote_resources"]

# What a browser fetches by itself; <a href> is the reader's choice. <link> only with these relations.
_LOADED = [("script", "src"), ("img", "src"), ("img", "srcset"), ("iframe", "src"), ("source", "src"), ("video", "src")]
_LOADED += [("audio", "src"), ("embed", "src"), ("object", "data"), ("form", "action"), ("track", "src")]
_RELATIONS = {"stylesheet", "icon", "shortcut", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload"}
_REMOTE = re.compile(r"^(?:[a-z]+:)?//", re.I)
_CSS_URL = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")\s]+)""", re.I)


def check_site(folder: Path) -> list[str]:
    """Every problem of a built site, a line each."""
    pages = {p.relative_to(folder).as_posix(): _parse(p) for p in sorted(folder.rglob("*.html"))}
    problems = [f"{name} loads {url}" for name, soup in pages.items() for url in remote_resources(soup)]
    for sheet in sorted(folder.rglob("*.css")):
        urls = _CSS_URL.findall(sheet.read_text(encoding="utf-8"))
        problems += [f"{sheet.relative_to(folder)} loads {url}" for url in urls]
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    anchors = {name: _anchors(soup) for name, soup in pages.items()}
    for name, soup in pages.items():
        problems += [f"{name} links to {link}: {why}" for link, why in broken_links(name, soup, files, anchors)]
    return problems


def remote_resources(soup: BeautifulSoup) -> list[str]:
    """Addresses on other hosts that the page loads by itself."""
    urls = [tag[attribute] for name, attribute in _LOADED for tag in soup.find_all(name, attrs={attribute: True})]
    urls += [tag["href"] for tag in soup.find_all("link", href=True) if _RELATIONS & set(tag.get("rel", []))]
    found = [url for url in urls if _REMOTE.match(url.strip())]
    styles = [tag.text for tag in soup.find_all("style")] + [tag["style"] for tag in soup.find_all(style=True)]
    return found + [url for style in styles for url in _CSS_URL.findall(style)]


def broken_links(
    page: str, soup: BeautifulSoup, files: set[str], anchors: dict[str, set[str]]
) -> list[tuple[str, str]]:
    """Links and resources of `page` that lead to no file or anchor of the site."""
    found = []
    tags = [(t, a) for n, a in [("a", "href"), ("link", "href"), *_LOADED] for t in soup.find_all(n, attrs={a: True})]
    for link in dict.fromkeys(tag[attribute] for tag, attribute in tags):
        url = urlsplit(link)
        if url.scheme or url.netloc or link.startswith("data:") or page == "404.html":
            continue
        parts = [*page.split("/")[:-1], *unquote(url.path).split("/")] if url.path else page.split("/")
        target = _join(parts)
        target = target if target in files else _join([target, "index.html"])
        if target not in files:
            found.append((link, "no such file"))
        elif url.fragment and target in anchors and unquote(url.fragment) not in anchors[target]:
            found.append((link, "no such heading or line"))
    return found


def _join(parts: list[str]) -> str:
    done: list[str] = []
    for part in parts:
        if part == "..":
            if done:
                done.pop()
        elif part not in ("", "."):
            done.append(part)
    return "/".join(done)


def _anchors(soup: BeautifulSoup) -> set[str]:
    named = soup.find_all("a", attrs={"name": True})
    return {tag["id"] for tag in soup.find_all(id=True)} | {tag["name"] for tag in named}


def _parse(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
