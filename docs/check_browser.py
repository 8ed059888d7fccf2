"""Open the built site in headless Chromium: it must fetch nothing from other hosts, and its search must answer.

    python docs/check_browser.py [site] [--query Vocab]

The pages are opened as files, the harder case: without a server, browsers refuse the worker that search runs in.
Needs a `chromium` on the path (or CHROMIUM=/path/to/it); says so and exits 0 where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run", "--disable-extensions", "--virtual-time-budget=8000", "--dump-dom"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND"]  # nor does the check itself reach any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, nargs="?", default=ROOT / "site")
    parser.add_argument("--query", default="Vocab", help="what to search for")
    args = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        print("docs: no Chromium here; the site was not opened in a browser")
        return 0
    base = args.site.resolve().as_uri()
    pages = ["index.html", *(p.relative_to(args.site).as_posix() for p in sorted(args.site.glob("api/*.html"))[:2])]
    problems = []
    for page in (f"index.html?q={args.query}", *pages):
        dom, hosts = visit(chromium, f"{base}/{page}")
        problems += [f"{page} asks {host}" for host in sorted(hosts)]
        if "?q=" in page:
            hits = [a["href"] for a in BeautifulSoup(dom, "html.parser").select("a.md-search-result__link")]
            print(f"docs: {args.query!r} finds {len(hits)} places, first {hits[:1]}")
            problems += [] if hits else [f"searching for {args.query!r} finds nothing"]
    print("\n".join(problems) or f"docs: {base} needs no other host", file=sys.stderr if problems else sys.stdout)
    return 1 if problems else 0


def visit(chromium: str, url: str) -> tuple[str, set[str]]:
    """The page's DOM after its scripts have run, and the foreign hosts that the page asked for anything."""
    with tempfile.TemporaryDirectory() as profile:
        log = Path(profile) / "net.json"
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"--log-net-log={log}", url]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        return dom, foreign_hosts(json.loads(log.read_text(encoding="utf-8")))


def foreign_hosts(netlog: dict) -> set[str]:
    """Hosts that pages asked, from a Chromium net log; requests of the browser's own have no origin as initiator."""
    found = set()
    for event in netlog["events"]:
        params = event.get("params", {})
        url = urlsplit(str(params.get("url", "")))
        if params.get("initiator", "not an origin") != "not an origin" and url.scheme in ("http", "https", "ws", "wss"):
            found.add(url.hostname)
    return found


if __name__ == "__main__":
    sys.exit(main())
