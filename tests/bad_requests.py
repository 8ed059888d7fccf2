"""Requests that are all bad, generated: `python tests/bad_requests.py [10000]` asks a service over sockets with them.

Each must be answered with 4xx, in a few words, without a trace. They are for an artefact of whole-numbered users, of
whom none is above 1,000, and items whose titles begin with `Film`.
"""

import asyncio
import json
import random
import sys
from typing import NamedTuple
from urllib.parse import quote, unquote

JSON = ("content-type", "application/json")
ODD_TEXTS = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a\r\nSet-Cookie: x=1", "nul\x00byte", "\u202e1",
    "..", "../../etc/passwd", "..\\..\\x", "%2e%2e", "{{ 7 * 7 }}", "${jndi:ldap://x}", "' or 1=1 --", "1;2", "\ufeff1",
    "\u0661", "1\u00b2", "\U0001f600", "NaN", "Infinity", "1e3", "0x1", "01", "-0", "+1", "1.0", " 1", "1 ", "null",
    "a" * 3000, "9" * 40, "-" + "9" * 25, "\x7f", "\t", "\u2028", "e\u0301", "\xed\xaf\xbf",
]  # fmt: skip
GET = ["/v1/users/1/recommendations", "/v1/users/1/history", "/v1/items", "/v1/questionnaire", "/v1/artefact",
       "/health/live", "/health/ready", "/metrics", "/openapi.json", "/", "/person", "/map", "/about"]  # fmt: skip
POST = ["/v1/recommend", "/v1/predict"]


class Bad(NamedTuple):
    """One request; `body` in parts is sent in chunks, without its length."""

    method: str
    target: str
    headers: tuple = ()
    body: bytes | list = b""


class Generator:
    """Bad requests of a seed."""

    def __init__(self, seed: int):
        self.r = random.Random(seed)
        self.kinds = [self.field, self.pair, self.damaged, self.monster, self.type, self.address, self.query, self.page,
                      self.method, self.place, self.chunks]  # fmt: skip

    def __iter__(self):
        while True:
            one = self.r.choice(self.kinds)()
            yield one._replace(headers=(*one.headers, *self.odd_headers()))

    def odd_headers(self) -> list:
        """Headers that change nothing."""
        known = [("x-forwarded-for", "../../x"), ("range", "bytes=9-1"), ("accept", "\xff/\xfe"), ("cookie", "a=<b>"),
                 ("x-http-method-override", "GET"), ("referer", "javascript:alert(1)"), ("x-long", "a" * 5000),
                 ("authorization", "Bearer \xe9"), ("accept-encoding", "zip, bomb;q=2")]  # fmt: skip
        return self.r.sample(known, self.r.choice([0, 0, 0, 1, 2]))

    def text(self) -> str:
        """A text that is no id."""
        if self.r.random() < 0.5:
            return self.r.choice(ODD_TEXTS)
        ranges = [(1, 127), (128, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
        return "~" + "".join(chr(self.r.randint(*self.r.choice(ranges))) for _ in range(self.r.randint(0, 30)))

    def odd(self, *, texts: bool = True):
        """A value of another type than a number or a list."""
        found = [None, {}, {"a": [1]}, [[]], [{}], [None], float("nan"), float("inf")]
        return self.r.choice([*found, self.text(), [self.text()]] if texts else found)

    def number(self):
        """What is no id of a user."""
        numbers = [0, -1, 1.5, 1.0, True, False, 2**31, 2**63, -(2**63), 2**64, 10**30, 99_999, -0.0, 1e300]
        return self.r.choice([*numbers, self.text(), str(self.r.randint(1, 20)), None, [1], {}])

    def field(self) -> Bad:
        """A body with one field that cannot be."""
        r, wrong = self.r, self.odd
        fields = {
            "k": lambda: r.choice([0, -1, 1001, 10**9, 10**40, 1.0, 2.5, "5", True, [1], {}, None, float("nan")]),
            "users": lambda: r.choice([[], 1, "1", {}, [1, self.number()], [self.number()], [*range(1, 5000)], True]),
            "items": lambda: r.choice([[], "Film 1", 7, {}, [7], [None], [self.text()], ["~x"] * 30_000, [[]], True]),
            "exclude": lambda: r.choice(["Film 1", 7, {}, [7], [None], [{}], ["~x"] * 30_000, True]),
            "filter_seen": lambda: r.choice(["no", "valid", 0, 1, 2.0, [], {}]),
            "why": lambda: r.choice([-1, 0, 11, 1.0, 10**30, "true", [], {}]),
            "diversity": lambda: r.choice([-0.1, 1.1, 1e300, "0", True, [], {}, float("nan"), None, 10**400]),
            "novelty_weight": lambda: r.choice([11, -11, 1e300, "0", False, [], {}, float("inf"), None]),
            "context": lambda: r.choice([[], 1, "x", {"a": [1]}, {"a": None}, {"hour": 3}, {"a": 2**70}, True]),
            "history": lambda: r.choice([{}, [], ["Film 1 Bleu"], {"~x": 5}, [{"rating": 1}], {self.text(): 1}, 7]),
            self.text(): wrong,
        }  # fmt: skip
        name = r.choice(list(fields))
        body = {"k": 3} if name == "history" else {"users": [1], "k": 3}
        value = fields[name]()
        return self.post("/v1/recommend", {**body, name: value})

    def pair(self) -> Bad:
        """A question for predictions that cannot be."""
        good, r = {"user": 1, "item": "Film 1 Bleu"}, self.r
        pairs = [{**good, "user": self.number()}, {**good, "item": self.text()}, {**good, "item": 7}, {"user": 1}, [],
                 1, None, {**good, "x": 1}, self.text()]  # fmt: skip
        body = r.choice([{"pairs": [good] * r.randint(0, 3) + [r.choice(pairs)]}, {"pairs": r.choice([[], {}, 1])},
                         {"pairs": [good], self.text(): 1}, {"pairs": [good], "interval": r.choice([0, 1, 2, "x"])},
                         {"pairs": [good] * 5000}, {}])  # fmt: skip
        return self.post("/v1/predict", body)

    def damaged(self) -> Bad:
        """JSON that is cut, or has a byte in it that it cannot have."""
        whole = json.dumps({"users": [1, 2], "k": 3, "exclude": ["Film 1 Bleu", "\u00e9"]}, ensure_ascii=False).encode()
        at = self.r.randrange(len(whole))
        odd = self.r.choice([b"\x00", b"\xff", b"\x1b", b"\xc3\x28", b"\xed\xa0\x80", b"\x0c"])
        body = self.r.choice([whole[:at], whole[:at] + odd + whole[at:], whole + whole, whole.replace(b"3", b"3,")])
        return Bad("POST", self.r.choice(POST), (JSON,), body)

    def monster(self) -> Bad:
        """JSON that is deep, long, or has numbers of no size."""
        n = self.r.choice([17, 40, 999, 1001, 20_000, 200_000])
        number = self.r.choice(
            [b"1e999", b"-1e999", b"NaN", b"-Infinity", b"9" * 5000, b"1" * 20_000, b"1e-", b"0x1", b"01"]
        )
        body = self.r.choice([
            b"[" * n, b'{"a":' * n, b"[" * n + b"]" * n, b'{"users":' + b"[" * n + b"1" + b"]" * n + b"}",
            b'{"users":[1],"k":' + number + b"}", b'{"users":[' + number + b"]}", b'{"users":[1],"users":[1]}',
            b'{"users":[1],"exclude":["\\ud800"]}', b'{"users":[1],"exclude":["' + b"x" * (1 << 20) + b'"]}',
            b" " * ((1 << 20) + 1),
        ])  # fmt: skip
        return Bad("POST", self.r.choice(POST), (JSON,), body)

    def chunks(self) -> Bad:
        """A body in chunks: too large, or none that can be read."""
        parts = self.r.choice([[b" " * 65_536] * 20, [b"{", b'"users"', b":"], [b'{"a":'] * 300, [b"\xff"] * 9])
        return Bad("POST", self.r.choice(POST), (JSON,), parts)

    def type(self) -> Bad:
        """A body that says it is no JSON."""
        kind = self.r.choice(["", "text/plain", "application/xml", "multipart/form-data", "application/jsonx",
                              "json", "\xff", "application/json-patch+json", "a" * 3000])  # fmt: skip
        return Bad("POST", self.r.choice(POST), (("content-type", kind),), b'{"users": [1]}')

    def address(self) -> Bad:
        """An id in an address that nobody has."""
        text, safe = self.text(), self.r.choice(["", "/."])
        side = self.r.choice(["users/{}/recommendations", "users/{}/history", "items/{}/similar"])
        return Bad("GET", "/v1/" + side.format(quote(text, safe=safe)))

    def query(self) -> Bad:
        """A query string that cannot be."""
        r, text = self.r, quote(self.text(), safe="")
        bad = r.choice([f"k={text}", "k=0", "k=-1", "k=1001", "k=1&k=1", f"k={'9' * 400}", f"x{text}=1", "k=%ff",
                        "filter_seen=maybe", "filter_seen=", "diversity=2", "diversity=nan", "novelty_weight=1e9",
                        "odd", "=1", "k", "k=1;k=2"])  # fmt: skip
        where = r.choice(["/v1/users/1/recommendations", "/v1/items", "/v1/users/1/history", "/v1/questionnaire"])
        return Bad("GET", f"{where}?{bad}")

    def page(self) -> Bad:
        """A page of what is not there."""
        text = quote(self.text(), safe="")
        page = self.r.choice(["person?id={}", "item?id={}", "why?user={}&item={}", "map?id=1&id_escaped={}x", "person",
                              "person?id=1&k={}", "person?id=1&diversity=x{}", "?offset={}", "why?user=1&item={}",
                              "questions?q1={}&r1=5", "item?id_escaped=%25%25{}"])  # fmt: skip
        if page.startswith("map"):  # which shows what it can
            page = "item?x={}"
        return Bad("GET", "/" + page.format(text, text))

    def method(self) -> Bad:
        """A method that a route does not take."""
        get = self.r.random() < 0.6
        names = ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]
        method = self.r.choice(names if get else ["GET", "HEAD", *names[1:]])
        return Bad(method, self.r.choice(GET if get else POST), (JSON,), b"")

    def place(self) -> Bad:
        """A path that leads nowhere."""
        text = quote(self.text(), safe=self.r.choice(["", "/.\\"]))
        start = self.r.choice(["/static/../", "/static/%2e%2e/", "/static//etc/passwd", "/v1/x", "/v2/", "//v1/x",
                               "/v1/recommend/", "/~", "/static/base.html", "/.git/"])  # fmt: skip
        return Bad("GET", start + text)

    def post(self, path: str, body) -> Bad:
        """A body as JSON, NaN and half pairs of surrogates as they come."""
        return Bad(
            "POST", path, (JSON,), json.dumps(body, ensure_ascii=self.r.random() < 0.5).encode("utf-8", "replace")
        )


async def ask_app(app, bad: Bad) -> tuple[int, bytes, dict]:
    """Status, body and headers of the answer of an ASGI application."""
    path, _, query = bad.target.partition("?")
    parts = bad.body if isinstance(bad.body, list) else [bad.body]
    headers = [(name.encode(), value.encode("latin-1")) for name, value in bad.headers]
    if not isinstance(bad.body, list):
        headers.append((b"content-length", b"%d" % len(bad.body)))
    scope = {"type": "http", "http_version": "1.1", "method": bad.method, "path": unquote(path), "root_path": "",
             "raw_path": path.encode(), "query_string": query.encode(), "headers": headers, "scheme": "http",
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "asgi": {"version": "3.0"}}  # fmt: skip
    messages = [{"type": "http.request", "body": part, "more_body": j < len(parts) - 1} for j, part in enumerate(parts)]
    sent: list = []

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:]), dict(sent[0]["headers"])


async def ask_socket(port: int, bad: Bad) -> tuple[int, bytes, dict]:
    """The same over a socket; status 0 where the connection ends without an answer."""
    head = f"{bad.method} {bad.target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in bad.headers)
    if isinstance(bad.body, list):
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in bad.body if part) + b"0\r\n\r\n"
        head += "transfer-encoding: chunked\r\n"
    else:
        body = bad.body
        head += f"content-length: {len(body)}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode("latin-1") + b"\r\n" + body)
        answer = await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:  # the answer came before the end of the body
        answer = b""
    finally:
        writer.close()
    head_, _, text = answer.partition(b"\r\n\r\n")
    lines = head_.split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
    return int(head_[9:12] or 0), text, headers


def fault(bad: Bad, status: int, body: bytes, headers: dict) -> str | None:
    """What is wrong with an answer to a bad request, or None."""
    size = sum(map(len, bad.body)) if isinstance(bad.body, list) else len(bad.body)
    if status == 0 and size > 1 << 20:  # the service closes while the body still comes
        return None
    if not 400 <= status < 500:
        return f"status {status}"
    if b"Traceback" in body or b'File "' in body or b"site-packages" in body:
        return "a trace"
    if b"set-cookie" in headers or (bad.target.startswith("/v1/") and len(body) > 2000):
        return "a cookie, or many words"
    if headers.get(b"content-type", b"").startswith(b"text/html") and b"<script>" in body.replace(b"&lt;", b""):
        return "a script"
    is_api = bad.target.startswith("/v1/") and bad.method != "HEAD" and body != b"Invalid HTTP request received."
    return "no error in JSON" if is_api and set(json.loads(body)) != {"error", "message"} else None


def main(n: int) -> None:
    """Ask a service that is started for it, and print what came back."""
    import collections
    import itertools
    import tempfile
    import time
    from pathlib import Path

    from serve_screens import served
    from test_serve import artefact

    with tempfile.TemporaryDirectory() as root:
        folder = artefact(Path(root) / "a", list(range(1, 21)), [f"Film {j} Bleu" for j in range(30)], rated=True)
        with served(folder) as base:
            port, began = int(base.rpartition(":")[2]), time.perf_counter()

            async def run():
                found, gate = collections.Counter(), asyncio.Semaphore(32)

                async def one(bad):
                    async with gate:
                        answer = await ask_socket(port, bad)
                    if wrong := fault(bad, *answer):
                        raise AssertionError(f"{wrong}: {str(bad)[:400]} {answer[1][:400]!r}")
                    found[answer[0]] += 1

                await asyncio.gather(*(one(bad) for bad in itertools.islice(Generator(0), n)))
                return found

            found = asyncio.run(run())
            whole = asyncio.run(ask_socket(port, Bad("GET", "/v1/users/1/recommendations")))[0]
    said = f"{n:,} bad requests in {time.perf_counter() - began:.0f} s, 0 where too large a one was cut off"
    print(f"{said}: {dict(sorted(found.items()))}; a good one then: {whole}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
