"""The service with many clients: new and torn artefacts, its end, generated requests, the page in a browser."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import quote

import httpx
import pytest
from serve_screens import WIDTHS, browser_path, open_browser, pages, served, started
from test_serve import HOSTILE, artefact

from collabkit import Recommender
from collabkit.serve.web.answerer import open_artefact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two artefacts with the same ids and other answers."""
    root, titles = tmp_path_factory.mktemp("swaps"), [f"Film {j}" for j in range(40)]
    return [artefact(root / str(seed), list(range(1, 31)), titles, rated=True, seed=seed) for seed in (0, 1)]


class Clients:
    """32 clients that ask without a pause, and what came back."""

    def __init__(self, base, expected):
        self.base, self.expected, self.over = base, expected, threading.Event()
        self.answers, self.wrong, self.lost = 0, [], []
        self.threads = [threading.Thread(target=self.ask, args=(j,)) for j in range(32)]

    def ask(self, j):
        client = httpx.Client(base_url=self.base, timeout=60)
        while not self.over.is_set():
            user = 1 + j % 30
            j += 1
            try:
                answer = client.get(f"/v1/users/{user}/recommendations?k=5")
            except httpx.ConnectError:  # nobody took the request
                time.sleep(0.05)
                continue
            except httpx.TransportError as error:
                self.lost.append(repr(error))
                continue
            self.answers += 1
            titles = [one["item"] for one in answer.json().get("items", [])]
            if answer.status_code != 200 or titles not in self.expected[user]:
                self.wrong.append((answer.status_code, user, titles))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


def lists_of(folders):
    """For each user the lists that are right."""
    found = {user: [] for user in range(1, 31)}
    for folder in folders:
        answerer = open_artefact(folder)
        for user, lists in found.items():
            lists.append([one["item"] for one in answerer.recommend([user], k=5).records])
    return found


def test_new_and_torn_artefacts_under_32_clients(folders, tmp_path):
    folder = tmp_path / "served"
    recs = [Recommender.load(one) for one in folders]
    recs[0].save(folder)
    with served(folder, "--watch") as base, Clients(base, lists_of(folders)) as clients:
        for j in range(25):
            torn, number = j % 5 == 4, httpx.get(f"{base}/health/ready").json()["loaded"]
            recs[(j + 1) % 2].save(folder)
            if torn:
                file = folder / ("model.safetensors", "light.safetensors", "config.json")[j % 3]
                file.write_bytes(file.read_bytes()[:-7])
            for _ in range(300):
                ready = httpx.get(f"{base}/health/ready").json()
                if ready["refused"] if torn else ready["loaded"] > number:
                    break
                time.sleep(0.05)
            else:
                raise AssertionError(f"artefact {j} was neither taken nor refused")
            shutil.rmtree(folder) if torn else None
    assert clients.answers > 500 and clients.wrong == [] and clients.lost == []
    print(f"{clients.answers} answers, 20 artefacts taken, 5 refused")


def test_ends_under_load_lose_nothing(folders):
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen(1024)
        words = [sys.executable, "-m", "collabkit.cli", "serve", str(folders[0]), "--fd", str(port.fileno())]

        def start():
            return subprocess.Popen(words, pass_fds=[port.fileno()], stderr=subprocess.DEVNULL)

        process = start()
        try:
            with Clients(f"http://127.0.0.1:{port.getsockname()[1]}", lists_of(folders[:1])) as clients:
                for _ in range(3):
                    until, before = time.monotonic() + 60, clients.answers
                    while clients.answers < before + 200 and time.monotonic() < until:
                        time.sleep(0.05)
                    old, process = process, start()
                    old.send_signal(signal.SIGTERM)
                    assert old.wait(60) in (0, -signal.SIGTERM)
                time.sleep(3)
        finally:
            process.kill()
            process.wait()
    assert clients.answers > 600 and clients.wrong == [] and clients.lost == []


def test_killed_at_any_moment_the_same_answers_come_again(folders, tmp_path):
    folder, over, last = tmp_path / "served", threading.Event(), []
    recs, expected, moments = [Recommender.load(one) for one in folders], lists_of(folders), random.Random(0)
    recs[0].save(folder)

    def save():
        while not over.is_set():
            last.append(len(last) % 2)
            recs[last[-1]].save(folder)
            over.wait(0.3)

    writer = threading.Thread(target=save)
    writer.start()
    try:
        answers = 0
        for _ in range(6):
            process, base = started(folder, "--watch")
            with Clients(base, expected) as clients:
                time.sleep(moments.uniform(0.5, 3))
                process.kill()
                process.wait()
            assert clients.wrong == []
            answers += clients.answers
    finally:
        over.set()
        writer.join()
    assert answers > 300 and len(last) > 10
    with served(folder) as base:
        for user, (now,) in lists_of([folders[last[-1]]]).items():
            found = httpx.get(f"{base}/v1/users/{user}/recommendations?k=5").json()
            assert [one["item"] for one in found["items"]] == now


@pytest.mark.timeout(3600)
def test_generated_requests_are_answered_or_refused(folders, tmp_path):
    pytest.importorskip("schemathesis", reason="an optional engine: no schemathesis")
    most = os.environ.get("COLLABKIT_EXAMPLES", "100")
    with served(folders[0]) as base:
        words = [sys.executable, "-m", "schemathesis.cli", "run", f"{base}/openapi.json", "--max-examples", most]
        words += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
                  "response_schema_conformance", "--mode", "all", "--seed", "1"]  # fmt: skip
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
        assert httpx.get(f"{base}/v1/users/1/recommendations").status_code == 200
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    print(done.stdout[-1500:])


@pytest.mark.skipif(browser_path() is None, reason="no real data: no browser")
def test_the_page_in_a_browser(folders):
    sync = pytest.importorskip("playwright.sync_api", reason="an optional engine: no playwright")
    with (
        served(folders[0]) as base,
        sync.sync_playwright() as playwright,
        contextlib.closing(open_browser(playwright)) as browser,
    ):
        for width in WIDTHS:
            tab = browser.new_context(viewport={"width": width, "height": 800}).new_page()
            said, hosts = [], set()
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("request", lambda request, hosts=hosts: hosts.add(request.url.split("/")[2]))
            for name, address in pages(folders[0]).items():
                tab.goto(base + address)
                assert tab.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            assert hosts == {base.split("/")[2]} and not [text for text in said if "422" not in text], said
            assert tab.context.cookies() == []
        tab.goto(f"{base}/")
        tab.fill("#q", "film 17")
        sync.expect(tab.locator("#results .title")).to_have_count(1)
        tab.goto(f"{base}/questions")
        before = tab.inner_text("#list h2")
        tab.locator(".answers label", has_text="5").first.click()
        sync.expect(tab.locator("#list h2")).to_have_text("After 1 answer")
        assert "For a new person" in before
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.tagName") != "BODY"


@pytest.mark.skipif(browser_path() is None, reason="no real data: no browser")
def test_hostile_titles_run_nothing_in_a_browser(tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="an optional engine: no playwright")
    folder = artefact(tmp_path / "a", [*HOSTILE, "ann"], HOSTILE)
    with (
        served(folder) as base,
        sync.sync_playwright() as playwright,
        contextlib.closing(open_browser(playwright)) as browser,
    ):
        tab, ran = browser.new_page(), []
        tab.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
        tab.on("pageerror", lambda error: ran.append(str(error)))
        tab.on("console", lambda said: ran.append(said.text) if "Content Security" in said.text else None)
        texts = [quote(title, safe="") for title in HOSTILE]
        pages = [
            "",
            "questions",
            "map",
            "about",
            *(f"{page}={one}" for one in texts for page in ("?q", "item?id", "person?id")),
        ]
        for page in pages:
            tab.goto(f"{base}/{page}")
            for link in tab.locator("main a").all()[:3]:
                link.hover()
        assert ran == [] and tab.context.cookies() == []
