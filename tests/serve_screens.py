"""Pictures of the page in a headless browser, to look at: `python tests/serve_screens.py ARTEFACT FOLDER`."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

from collabkit.serve.web.answerer import open_artefact

WIDTHS = (390, 1280)


def browser_path() -> str | None:
    """The browser of this machine, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def served(folder: Path, *options: str):
    """The address of a service of the artefact in a process of its own."""
    process, base = started(folder, *options)
    try:
        yield base
    finally:
        process.terminate()
        process.wait(40)


def started(folder: Path, *options: str, log: int = subprocess.DEVNULL) -> tuple[subprocess.Popen, str]:
    """The process of a service that is ready, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "collabkit.cli", "serve", str(folder), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
    for _ in range(600):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5)
            return process, f"http://127.0.0.1:{port}"
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.1)
    process.kill()
    raise AssertionError("the service is not ready after a minute")


def pages(folder: Path) -> dict[str, str]:
    """The addresses of pages by name."""
    answerer = open_artefact(folder)
    user, counts = answerer.users.values[0], answerer.counts()
    item = answerer.items.values[max(range(len(counts)), key=counts.__getitem__)]
    one, who = quote(str(item), safe=""), quote(str(user), safe="")
    return {"home": "/", "search": "/?q=the", "person": f"/person?id={who}", "why": f"/why?user={who}&item={one}",
            "item": f"/item?id={one}", "questions": "/questions", "map": f"/map?id={one}", "about": "/about",
            "error": "/person?id=nobody"}  # fmt: skip


def open_browser(playwright):
    options = ["--no-sandbox", "--disable-background-networking"]
    return playwright.chromium.launch(executable_path=browser_path(), args=options)


def main(folder: Path, out: Path) -> None:
    """Write a picture of each page, in two widths, and of some in dark colours."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    with served(folder) as base, sync_playwright() as playwright:
        browser = open_browser(playwright)
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
                tab = context.new_page()
                for name, address in pages(folder).items():
                    tab.goto(base + address)
                    tab.screenshot(path=out / f"{name}-{width}-{scheme}.png", full_page=width == min(WIDTHS))
                context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
