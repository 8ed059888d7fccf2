"""The service over HTTP: every route, what it refuses, a new artefact, and its end."""

import asyncio
import base64
import html
import html.parser
import itertools
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import numpy as np
import pandas as pd
import pytest
from bad_requests import Bad, Generator, ask_app, fault
from serve_screens import started
from starlette.testclient import TestClient

from collabkit import CollabDataLoaders, Recommender, collab_learner
from collabkit.serve.app import Settings, create_app
from collabkit.serve.web.answerer import LightAnswerer, open_artefact
from collabkit.serve.web.asked import Limits, Refused
from collabkit.serve.web.catalogue import folded, one_line
from collabkit.serve.web.holder import Held
from collabkit.serve.web.ids import Ids
from collabkit.serve.web.lanes import Lane
from collabkit.serve.web.with_torch import TorchAnswerer

JSON = {"content-type": "application/json"}
HOSTILE = [
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "a\r\nSet-Cookie: x=1", "nul\x00byte",
    "\u202eright to left", "{{ 7 * 7 }}", "..", "../../etc/passwd", "AC/DC & co; #1?=50%", "' onmouseover='alert(1)",
    "javascript:alert(1)", "\u05d0\u05d1\u05d2", "\U0001f600", " ", "</title></svg><script>x</script>", "a" * 500,
]  # fmt: skip


def artefact(folder, users, items, *, rated=False, seed=0):
    """An artefact of a small model on random events of some ids."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(len(users) * len(items), size=len(users) * len(items) // 2, replace=False)
    table = {"user": [users[p // len(items)] for p in pairs], "item": [items[p % len(items)] for p in pairs]}
    if rated:
        table["rating"] = rng.integers(1, 6, len(pairs)).astype(float)
    features = pd.DataFrame({"item": items, "genre": [["Drama", "Comedy"][j % 2] for j in range(len(items))]})
    names = {"user_name": "user", "item_name": "item", "seed": 0, "items": features, "item_features": ["genre"]}
    how = {"rating_name": "rating", "bs": 32} if rated else {"feedback": "implicit"}
    dls = CollabDataLoaders.from_df(pd.DataFrame(table), **names, **how)
    learn = collab_learner(dls, n_factors=4, **({"y_range": (0, 5.5)} if rated else {}))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    return learn.export(folder)


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    """Ratings of titles by numbered users."""
    titles = [f"Film {j} {'Bleu' if j % 3 else 'Été'}" for j in range(30)]
    return artefact(tmp_path_factory.mktemp("rated") / "a", list(range(1, 21)), titles, rated=True)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Events of users and items that are all named by somebody hostile."""
    return artefact(tmp_path_factory.mktemp("hostile") / "a", [*HOSTILE, "ann"], HOSTILE)


@pytest.fixture(scope="module")
def rec(rated):
    return Recommender.load(rated)


@pytest.fixture(scope="module")
def client(rated):
    with TestClient(create_app(rated)) as found:
        yield found


def test_lists_are_those_of_the_recommender(client, rec):
    answer = client.post("/v1/recommend", json={"users": [3, 7, 3], "k": 4, "why": True}).json()
    assert [one["user"] for one in answer["lists"]] == [3, 7] and answer["notes"] == []
    for one in answer["lists"]:
        table = rec.recommend(one["user"], k=4, why=True)
        assert [row["item"] for row in one["items"]] == table["item"].tolist()
        assert [row["because"] for row in one["items"]] == [None if v is None else v for v in table["because"]]
        assert [row["score"] for row in one["items"]] == pytest.approx(table["score"].tolist(), abs=1e-5)


def test_one_user_with_options(client, rec):
    options = {"k": 3, "filter_seen": "false", "diversity": 0.5, "novelty_weight": -1}
    answer = client.get("/v1/users/5/recommendations", params=options).json()
    table = rec.recommend(5, k=3, filter_seen=False, diversity=0.5, novelty_weight=-1)
    assert [row["item"] for row in answer["items"]] == table["item"].tolist()


@pytest.mark.parametrize(
    "history",
    [{"Film 1 Bleu": 5, "Film 2 Bleu": None}, [{"item": "Film 1 Bleu", "rating": 5}]],
    ids=["by name", "entries"],
)
def test_history(client, rec, history):
    answer = client.post("/v1/recommend", json={"history": history, "k": 5, "exclude": ["Film 3 Été"]}).json()
    table = rec.recommend(history={"Film 1 Bleu": 5}, k=5, exclude=["Film 3 Été"])
    assert [row["item"] for row in answer["lists"][0]["items"]] == table["item"].tolist()


def test_notes_say_what_a_notebook_warns_of(client):
    answer = client.post("/v1/recommend", json={"users": [1], "items": ["Film 1 Bleu", "nobody's"]}).json()
    assert any("1 of 2 ids in items=" in note for note in answer["notes"])


def test_other_routes(client, rec):
    pair = {"user": 2, "item": "Film 4 Bleu"}
    answer = client.post("/v1/predict", json={"pairs": [pair]}).json()["predictions"][0]
    assert answer == {**pair, "score": pytest.approx(rec.predict(2, "Film 4 Bleu"), abs=1e-5)}
    similar = client.get(f"/v1/items/{quote('Film 4 Bleu')}/similar?k=3").json()["items"]
    assert [one["item"] for one in similar] == rec.similar_items("Film 4 Bleu", 3)["item"].tolist()
    asked = client.get("/v1/questionnaire?n=4").json()["items"]
    assert [one["item"] for one in asked] == rec.questionnaire(4)["item"].tolist()
    found = client.get("/v1/items", params={"q": "ete FILM", "k": 3}).json()
    counts = [one["events"] for one in found["items"]]
    assert found["total"] == 10 and counts == sorted(counts, reverse=True) and "Été" in found["items"][0]["title"]
    history = client.get("/v1/users/2/history").json()["items"]
    assert [one["rating"] for one in history] == rec.history(2)["rating"].tolist()
    facts = client.get("/v1/artefact").json()
    assert facts["model"] == "CollFilter" and facts["items"] == 30 and facts["engine"] == "light"
    assert client.get("/health/live").json() == {"live": True} and client.get("/health/ready").json()["ready"] is True
    assert 'route="/v1/predict",status="200"' in client.get("/metrics").text
    assert set(client.get("/openapi.json").json()["paths"]) >= {"/v1/recommend", "/v1/users/{id}/recommendations"}


def test_both_engines_answer_alike(rated):
    engines = [open_artefact(rated, engine) for engine in ("light", "torch")]
    assert isinstance(engines[0], LightAnswerer) and isinstance(engines[1], TorchAnswerer)
    clients = [TestClient(create_app(engine)) for engine in engines]
    for address in ("/v1/users/4/recommendations?k=3&why=true", "/v1/users/4/history", "/v1/questionnaire?n=3",
                    "/v1/items?q=film", f"/v1/items/{quote('Film 4 Bleu')}/similar"):  # fmt: skip
        light, torch = (client.get(address).json() for client in clients)
        assert [list(one) for one in light["items"]] == [list(one) for one in torch["items"]]
        assert [one["item"] for one in light["items"]] == [one["item"] for one in torch["items"]]
    facts = [engine.facts() for engine in engines]
    assert facts[0]["rows"] == facts[1]["rows"] and facts[0]["rated"] is facts[1]["rated"] is True
    assert engines[0].categories() == engines[1].categories()


def assert_same(answer, expected):
    """Two answers are the same but for the last digits of scores, as many are multiplied together or one alone."""
    assert answer["user"] == expected["user"]
    scores = [[row["score"] for row in one["items"]] for one in (answer, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    apart = np.diff(scores[1]) < -1e-5  # items with scores that near may stand either way round
    for j, (row, other) in enumerate(zip(answer["items"], expected["items"], strict=True)):
        alone = (j == 0 or apart[j - 1]) and (j == len(apart) or apart[j])
        assert row["item"] == other["item"] or not alone


# --- what is refused --------------------------------------------------------------------------------------------------

BODIES = [
    b"", b"[]", b"null", b"7", b'"x"', b"{", b"\xff\xfe", b'{"users": [1], "k": NaN}', b'{"users": [1], "k": 1e999}',
    b'{"users": [1], "k": Infinity}', b'{"users": [1], "k": 2.0}', b'{"users": [1], "k": 0}',
    b'{"users": [1], "k": -1}', b'{"users": [1], "k": 100000000}',
    b'{"users": [1], "k": true}', b'{"users": [1], "k": "3"}', b'{"users": []}',
    b'{"users": ["1"]}', b'{"users": [1.0]}', b'{"users": [true]}', b'{"users": [null]}', b'{"users": [[1]]}',
    b'{"users": [{}]}', b'{"users": [99999]}', b'{"users": [-1]}', b'{"users": [123456789012345678901234567890]}',
    b'{"users": 1}', b'{"users": [1], "history": {"Film 1 Bleu": 5}}', b"{}", b'{"history": {}}', b'{"history": []}',
    b'{"history": ["Film 1 Bleu"]}', b'{"history": {"nobody": 5}}', b'{"history": {"Film 1 Bleu": "5"}}',
    b'{"history": {"Film 1 Bleu": 1e300}}', b'{"history": {"Film 1 Bleu": true}}', b'{"history": [7]}',
    b'{"history": ["Film 1 Bleu", {"item": "Film 2 Bleu"}]}', b'{"history": [{"rating": 3}]}',
    b'{"history": [{"item": "Film 1 Bleu", "rating": 1}, {"item": "Film 1 Bleu", "rating": 5}]}',
    b'{"users": [1], "items": []}', b'{"users": [1], "items": "Film 1 Bleu"}', b'{"users": [1], "items": [1]}',
    b'{"users": [1], "items": ["nobody"]}', b'{"users": [1], "filter_seen": "no"}', b'{"users": [1], "filter_seen": 1}',
    b'{"users": [1], "why": 11}', b'{"users": [1], "why": "yes"}', b'{"users": [1], "diversity": 2}',
    b'{"users": [1], "context": []}', b'{"users": [1], "context": {"hour": [1]}}',
    b'{"users": [1], "context": {"x": 1}}', b'{"users": [1], "odd": 1}',
    b'{"users": [1], "exclude": ["\xed\xa0\x80"]}', '{"users": [1]}'.encode("utf-16"),
    b'{"users": [1], "users": [2]}', b'{"users": [1], "items": ["\\ud800"]}',
    b"[" * 100_000, b'{"a":' * 100_000, b'{"users": ' + b"[" * 40 + b"]" * 40 + b"}",
    b'{"users": [' + b"9" * 10_000 + b"]}", b'{"users": [1], "k": ' + b"1" * 400 + b"}",
    b'{"users": [' + b",".join([b"1"] * 2000) + b"]}", b'{"users": [1], "exclude": ["' + b"x" * 2_000_000 + b'"]}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:40].decode("latin-1"))
def test_bad_bodies_are_refused_in_words(client, body):
    answer = client.post("/v1/recommend", content=body, headers=JSON)
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()) == {"error", "message"} and "Traceback" not in answer.text and len(answer.text) < 1000


PATHS = ["7\u00b2", "\u0667", "1.0", "01", "-0", "+1", " 1", "1e3", "0x1", "999999", "9" * 30, "x", "", "..", "%00",
         "1%0d%0aX: y", "<script>", "true", "NaN", "1/2", "\u202e1", "1" * 5000]  # fmt: skip


@pytest.mark.parametrize("text", PATHS, ids=ascii)
def test_bad_ids_in_an_address(client, text):
    answer = client.get(f"/v1/users/{text if text.startswith('%') else quote(text)}/recommendations")
    assert answer.status_code in (404, 422) and set(answer.json()) == {"error", "message"}
    assert client.get("/person", params={"id": text}).status_code in (404, 422)


@pytest.mark.parametrize(
    "query",
    ["k=0", "k=x", "k=\u00b2", "k=99999", "k=1&k=2", "odd=1", "why=1", "filter_seen=maybe", "diversity=nan",
     "diversity=2", "k=", "novelty_weight=1e3"],
)  # fmt: skip
def test_bad_queries(client, query):
    assert client.get(f"/v1/users/1/recommendations?{query}").status_code == 422


def test_other_refusals(client):
    post = client.post
    assert post("/v1/recommend", content=b'{"users": [1]}', headers={"content-type": "text/plain"}).status_code == 415
    assert post("/v1/recommend", content=b"{}", headers={**JSON, "content-length": "99999999"}).status_code == 413
    chunks = (b" " * 100_000 for _ in range(20))
    assert post("/v1/recommend", content=chunks, headers=JSON).status_code == 413
    assert client.get("/v1/recommend").status_code == 405 and client.get("/v2").status_code == 404
    assert client.get("/static/../pages.py").status_code == 404
    assert client.get("/static/%2e%2e/pages.py").status_code == 404
    for body in ({"pairs": []}, {"pairs": [{"user": 1}]}, {"pairs": [{"user": 99, "item": "Film 1 Bleu"}]},
                 {"pairs": [{"user": 1, "item": "Film 1 Bleu"}], "interval": 0.9}, {}):  # fmt: skip
        assert post("/v1/predict", json=body).status_code in (404, 422)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_generated_bad_requests(rated):
    app = create_app(rated)

    async def run():
        for bad in itertools.islice(Generator(7), 300):
            assert fault(bad, *await ask_app(app, bad)) is None, bad
        return await ask_app(app, Bad("GET", "/v1/users/1/recommendations"))

    assert asyncio.run(run())[0] == 200


def test_what_goes_wrong_inside_is_not_told(rated, caplog):
    app = create_app(rated)
    answerer = app.state.service.holder.now.answerer
    answerer.recommend = lambda *_, **__: 1 / 0
    answer = TestClient(app).get("/v1/users/1/recommendations")
    assert answer.status_code == 500 and answer.json()["error"] == "internal" and "division" not in answer.text
    assert "division by zero" in caplog.text


def test_token(rated, tmp_path):
    file = tmp_path / "token"
    file.write_text("0123456789abcdef0123\n")
    app = create_app(rated, settings=Settings("", token_file=str(file)))
    client, address = TestClient(app), "/v1/users/1/recommendations"
    refused = client.get(address)
    assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
    assert "Basic" in client.get("/").headers["www-authenticate"] and client.get("/health/live").status_code == 200
    basic = base64.b64encode(b"me:0123456789abcdef0123").decode()
    for word, status in (("Bearer 0123456789abcdef0123", 200), (f"Basic {basic}", 200), ("Bearer no", 401),
                         ("Basic !", 401), ("0123456789abcdef", 401), ("Bearer", 401), ("Bearer é", 401)):  # fmt: skip
        assert client.get(address, headers={"authorization": word.encode("latin-1")}).status_code == status
    file.write_text("short")
    with pytest.raises(ValueError, match="at least 16"):
        create_app(rated, settings=Settings("", token_file=str(file)))


# --- ids and titles ---------------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """What a page would run."""

    def __init__(self):
        super().__init__()
        self.names, self.scripts, self.handlers = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.scripts += [dict(attrs).get("src")] if tag == "script" else []
        links = ("href", "src", "action", "hx-get")
        runs = [name for name, value in attrs if name in links and str(value).startswith("javascript:")]
        self.handlers += [*runs, *(name for name, _ in attrs if name.startswith("on"))]


def test_hostile_titles_are_shown_as_text(hostile):
    client = TestClient(create_app(hostile))
    home = client.get("/").text
    for title in HOSTILE:
        escaped = quote(title, safe="")
        pages = [client.get(f"/{page}?id={escaped}") for page in ("item", "person")]
        pages.append(client.get("/", params={"q": title}))
        answers = [client.post("/v1/recommend", json={"users": [title]})]
        if title != "..":  # which every client takes for a step up
            answers += [client.get(f"/v1/users/{escaped}/recommendations"), client.get(f"/v1/items/{escaped}/similar")]
        for answer in (*pages, *answers):
            assert answer.status_code == 200, answer.text
            assert "set-cookie" not in answer.headers
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        for page in pages:
            tags = Tags()
            tags.feed(page.text)
            assert tags.scripts == ["static/htmx.min.js"] and not tags.handlers and "img" not in tags.names
            assert "\x00" not in page.text and "\u202e" not in page.text and "{{ 7 * 7 }}" in home
        escaped = {"id_escaped": quote(title, safe="")}
        assert client.get("/person", params=escaped).text == pages[1].text
    text = client.get("/map").text
    assert "<script>" not in text and html.escape("<script>alert(1)</script>") in text


@pytest.mark.parametrize(
    "users",
    [[uuid.UUID(int=j) for j in range(6)], [j / 2 for j in range(6)], list(pd.date_range("2020", periods=6))],
    ids=["uuid", "float", "time"],
)
def test_ids_of_other_types(tmp_path, users):
    client = TestClient(create_app(artefact(tmp_path / "a", users, [10, -20, 30, 40])))
    answerer = client.app.state.service.holder.now.answerer
    one = answerer.users.values[2]
    known = answerer.users.json(one)
    assert client.post("/v1/recommend", json={"users": [known], "k": 1}).json()["lists"][0]["user"] == known
    answer = client.get(f"/v1/users/{quote(answerer.users.text(one))}/recommendations?k=1&filter_seen=false").json()
    assert answer["user"] == known and answer["items"][0]["item"] in (10, -20, 30, 40)
    assert client.get("/v1/items/-20/similar?k=1").status_code == 200
    assert client.post("/v1/recommend", json={"users": ["nobody"]}).status_code in (404, 422)
    assert client.get(f"/person?id={quote(answerer.users.text(one))}").status_code == 200


def test_ids_are_read_by_their_type():
    whole = Ids("item", [3, -5, 2**62])
    assert whole.read(3) == 3 and whole.parse("-5") == -5 and whole.parse(str(2**62)) == 2**62
    for value in (True, 3.0, "3", None, [3], 2**64):
        with pytest.raises(Refused):
            whole.read(value)
    truth = Ids("user", [False, True])
    assert truth.parse("true") is True and truth.read(False) is False
    with pytest.raises(Refused):
        truth.read(1)


def test_titles_are_one_line_and_found_without_accents():
    assert one_line("a\r\n\u202eb") == "a b" and one_line("é ü") == "é ü"
    assert one_line("\x00") == one_line("") == one_line("  ") == "(no title)"
    assert folded("ÉTÉ Straße") == "ete strasse"


# --- the page ---------------------------------------------------------------------------------------------------------


def test_pages(client, rec):
    home = client.get("/?q=ete").text
    assert "10 with" in home and home.count('<a class="title"') == 10
    person = client.get("/person?id=5&k=4&hide=genre:Comedy")
    top = rec.recommend(5, k=30)
    kept = [title for title in top["item"] if int(title.split()[1]) % 2 == 0][:4]
    assert re.findall(r'class="title".*?<bdi>(.*?)</bdi>', person.text) == kept
    assert "because of" in person.text and person.text.count("why<span") > 0
    why = client.get(f"/why?user=5&item={quote(kept[0])}").text
    shares = [float(share.replace("&#43;", "+")) for share in re.findall(r'right">((?:&#43;|[+-])[\d.]+)</td>', why)]
    assert sum(shares) == pytest.approx(rec.predict(5, kept[0]), abs=0.03)
    assert "Similar" in client.get(f"/item?id={quote(kept[0])}").text
    chart = client.get(f"/map?id={quote(kept[0])}").text
    assert chart.count("<circle class=") >= 30 and 'class="chosen"' in chart
    about = client.get("/about").text
    assert "valid_loss" in about and "CollFilter" in about
    assert client.get("/item?id=nothing").status_code == 404 and client.get("/item").status_code == 422


def test_the_list_follows_the_answers(client, rec):
    nothing = client.get("/questions").text
    assert "For a new person" in nothing and nothing.count("<fieldset") == 10
    item = rec.questionnaire(1)["item"].iloc[0]
    after = client.get("/questions", params={"q1": quote(item), "r1": "5", "q2": "Film%203", "r2": ""}).text
    titles = re.findall(r'class="title".*?<bdi>(.*?)</bdi>', after)
    assert "After 1 answer" in after and titles == rec.recommend(history={item: 5}, k=10)["item"].tolist()
    assert client.get("/questions", params={"q1": item, "r1": "77"}).status_code == 422


def test_the_page_needs_nobody_else(client):
    for address in ("/", "/person?id=5", "/questions", "/map", "/about"):
        text = client.get(address).text
        links = re.findall(r'(?:src|href|hx-get|action)="([^"]*)"', text)
        assert links and not [link for link in links if "//" in link]
        assert not re.search(r"<script(?! src=\"static/htmx.min.js\" defer></script>)| on\w+=|style=", text)
        assert "<main" in text and 'lang="en"' in text and text.count("<h1") == 1


# --- many at once, a new artefact, the end ----------------------------------------------------------------------------


def test_who_asks_together_is_answered_together():
    calls = []

    def answer(asked):
        calls.append(len(asked))
        time.sleep(0.05)
        return [one * 2 for one in asked]

    async def run():
        lane = Lane("test", seconds=5, most=100, batch=8)
        odd = [lane.ask("odd", n, answer) for n in range(3)]
        found = await asyncio.gather(*(lane.ask("key", n, answer) for n in range(20)), *odd)
        assert found == [*(2 * n for n in range(20)), 0, 2, 4]
        alone = await asyncio.gather(*(lane.ask(None, n, answer) for n in range(3)))
        assert alone == [0, 2, 4] and calls[-3:] == [1, 1, 1] and sorted(calls[:-3]) == [3, 4, 8, 8]
        with pytest.raises(ZeroDivisionError):
            await lane.ask(None, 1, lambda _: 1 / 0)
        assert await lane.ask(None, 4, answer) == 8

    asyncio.run(run())


def test_who_would_wait_too_long_is_told_to_come_again():
    async def run():
        lane = Lane("test", seconds=0.2, most=3)
        slow = [asyncio.create_task(lane.ask(None, 1, lambda asked: time.sleep(0.5) or asked)) for _ in range(3)]
        await asyncio.sleep(0.01)
        found = await asyncio.gather(*slow, lane.ask(None, 2, list), lane.ask(None, 2, list), return_exceptions=True)
        assert all(isinstance(one, Refused) and one.status == 503 and one.retry_after == 1 for one in found)
        await asyncio.sleep(0.5)
        assert await lane.ask(None, 2, list) == 2

    asyncio.run(run())


def test_an_overload_says_when_to_come_again(rated):
    app = create_app(rated, settings=Settings("", limits=Limits(seconds=0.1)))
    answerer = app.state.service.holder.now.answerer
    answerer.recommend = lambda *_, **__: time.sleep(0.4)
    answer = TestClient(app).get("/v1/users/1/recommendations")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1" and answer.json()["error"] == "busy"


def test_a_new_artefact_is_taken_and_a_torn_one_refused(rated, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(rated, folder)
    app = create_app(folder)
    client, holder = TestClient(app), app.state.service.holder
    old = holder.now
    assert asyncio.run(holder.look()) is False and holder.now is old
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-8])
    assert asyncio.run(holder.look()) is False and holder.now is old
    ready = client.get("/health/ready")
    assert ready.status_code == 200 and "damaged" in ready.json()["refused"]["why"]
    assert 'collabkit_artefacts_total{outcome="refused"} 1.0' in client.get("/metrics").text
    assert client.get("/v1/users/1/recommendations").status_code == 200
    Recommender.load(rated).save(tmp_path / "b")
    shutil.rmtree(folder)
    assert asyncio.run(holder.look()) is False
    shutil.move(tmp_path / "b", folder)
    assert asyncio.run(holder.look()) is True and holder.now.number == 2
    assert client.get("/health/ready").json() == {"ready": True, "loaded": 2, "refused": None}


def test_a_request_keeps_to_the_artefact_it_began_with(rated, hostile):
    app = create_app(rated)
    holder, client = app.state.service.holder, TestClient(app)
    old = holder.now.answerer
    answer = old.recommend

    def replaced(*users, **options):
        holder.now = Held(open_artefact(hostile), 2)
        return answer(*users, **options)

    old.recommend = replaced
    assert client.get("/v1/users/3/recommendations?k=1").json()["items"][0]["item"].startswith("Film")
    assert (
        client.get("/v1/users/3/recommendations").status_code == 404
        and client.get("/v1/artefact").json()["loaded"] == 2
    )


def test_a_process_is_killed_serves_again_and_ends_in_order(rated):
    process, base = started(rated, "--watch", log=subprocess.PIPE)
    try:
        with httpx.Client(base_url=base) as client, ThreadPoolExecutor(4) as pool:
            serial = [client.get(f"/v1/users/{user}/recommendations").json() for user in range(1, 21)]
            asked = [pool.submit(httpx.get, f"{base}/v1/users/{1 + j % 20}/recommendations") for j in range(40)]
            asked[7].result()
            process.kill()
        process, base = started(rated, "--watch", log=subprocess.PIPE)
        with httpx.Client(base_url=base) as client, ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(client.get, f"/v1/users/{1 + j % 20}/recommendations") for j in range(200)]
            for one, expected in zip(asked, serial * 10, strict=True):
                assert_same(one.result().json(), expected)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            last = client.get("/v1/users/1/recommendations")
            assert last.status_code == 200 and last.headers["connection"] == "close"
            assert client.get("/health/ready").status_code == 503
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stdout.read()
    finally:
        process.kill()


def test_serving_loads_no_torch(rated):
    code = (f"import sys; from collabkit.serve.app import create_app; create_app({str(rated)!r}); "
            "print(sorted({'torch', 'pandas', 'fastai', 'pyarrow'} & sys.modules.keys()))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
