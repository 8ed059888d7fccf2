"""The service under load: its throughput beside a bare route of the same framework, its tail, and whether it is right.

    python -m benchmarks.service [ARTEFACT] [--seconds 60]

Each run starts the service and the bare route as processes of their own and asks both from this one, in turns.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from .common import write

BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
answer = __import__("json").loads(sys.argv[2])
async def fixed(request):
    return JSONResponse(answer)
app = Starlette(routes=[Route("/v1/users/{id}/recommendations", fixed)])
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False)
"""


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(words: list, port: int):
    """A process, and the address that it answers at."""
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{address}/health/live")
                break
            if process.poll() is not None:
                raise RuntimeError("the process ended")
            time.sleep(0.1)
        yield address, process
    finally:
        process.terminate()
        process.wait(60)


def path(user) -> str:
    """The address of a user's list."""
    return f"/v1/users/{user}/recommendations"


class Client:
    """Connections that ask as fast as they are answered: bare sockets, as a client of full comfort costs more.

    Args:
        address: of the service.
        serial: for each user the items of the answer that it gave when it was asked alone, or None.
    """

    def __init__(self, address: str, serial: dict | None):
        self.port, self.serial = int(address.rpartition(":")[2]), serial
        self.seconds: list[float] = []
        self.statuses: dict[int, int] = {}
        self.wrong = 0

    async def ask(self, users: list, until: float, start: int) -> None:
        """Ask for one user's list after the other on one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        j = start
        while time.perf_counter() < until:
            user, began = users[j % len(users)], time.perf_counter()
            j += 7
            writer.write(f"GET {path(user)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            self.seconds.append(time.perf_counter() - began)
            status = int(head[9:12])
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status == 503:
                assert b"retry-after" in head.lower()
            elif self.serial is not None and status == 200:
                self.wrong += not same(json.loads(body), self.serial[user])
        writer.close()

    async def run(self, users: list, n: int, seconds: float) -> float:
        """Requests a second of `n` connections."""
        until, before, began = time.perf_counter() + seconds, len(self.seconds), time.perf_counter()
        await asyncio.gather(*(self.ask(users, until, 13 * j) for j in range(n)))
        return (len(self.seconds) - before) / (time.perf_counter() - began)


def same(answer: dict, expected: dict) -> bool:
    """Whether two answers are the same, but for the last digits of scores and the order of equal ones."""
    rows, others = answer["items"], expected["items"]
    near = all(abs(a["score"] - b["score"]) < 1e-4 for a, b in zip(rows, others, strict=True))
    wanted = {one["item"]: one["score"] for one in others}
    last = others[-1]["score"] if others else 0.0
    known = all(abs(wanted.get(one["item"], last) - one["score"]) < 1e-4 for one in rows)
    return answer["user"] == expected["user"] and near and known


def memory(pid: int) -> float:
    """MB that a process has in memory alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1024


def cpu(pid: int) -> float:
    """Seconds of the processor that a process took so far."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def measure(artefact: Path, seconds: float, rounds: int) -> dict:
    """The figures by name."""
    port, other = free_port(), free_port()
    with running(["-m", "collabkit.cli", "serve", artefact, "--port", port], port) as (address, process):
        from collabkit.serve.web.answerer import open_artefact

        users = open_artefact(artefact).users.values[:500]
        with httpx.Client(base_url=address) as client:
            serial = {user: client.get(path(user)).json() for user in users}
        body = json.dumps(serial[users[0]])
        with running(["-c", BARE, other, body], other) as (bare, beside):
            found: dict[str, list] = {"service": [], "bare": []}
            each: dict[str, list] = {"service": [], "bare": []}
            for _ in range(rounds):
                for name, where, pid in (("service", address, process.pid), ("bare", bare, beside.pid)):
                    client, before = Client(where, None), cpu(pid)
                    found[name].append(asyncio.run(client.run(users, 32, seconds / 10)))
                    each[name].append((cpu(pid) - before) / len(client.seconds))
            lines = httpx.get(f"{address}/metrics").text.splitlines()
            batches = [float(line.split()[1]) for name in ("sum", "count") for line in lines
                       if line.startswith(f"collabkit_batch_requests_{name}")]  # fmt: skip
        tail = Client(address, serial)
        asyncio.run(tail.run(users, 32, seconds / 6))
        before = memory(process.pid)
        crowd, rates, sizes = Client(address, serial), [], []
        for _ in range(4):  # of these connections are new each time, and the memory is that of so many
            rates.append(asyncio.run(crowd.run(users, 1000, seconds / 4)))
            sizes.append(memory(process.pid))
    p99 = sorted(tail.seconds)[int(0.99 * len(tail.seconds))]
    return {
        "items": len(open_artefact(artefact).items),
        "service a second": round(statistics.median(found["service"])),
        "bare a second": round(statistics.median(found["bare"])),
        "share of bare": round(statistics.median(a / b for a, b in zip(*found.values(), strict=True)), 3),
        "service CPU us a request": round(1e6 * statistics.median(each["service"])),
        "bare CPU us a request": round(1e6 * statistics.median(each["bare"])),
        "share of bare by CPU": round(statistics.median(b / a for a, b in zip(*each.values(), strict=True)), 3),
        "answered together at 32": round(batches[0] / batches[1], 1),
        "p99 ms at 32": round(1000 * p99, 1),
        "wrong at 32": tail.wrong,
        "answers at 1000": len(crowd.seconds),
        "a second at 1000": round(statistics.median(rates)),
        "statuses at 1000": " ".join(f"{status}: {n:,}" for status, n in sorted(crowd.statuses.items())),
        "wrong at 1000": crowd.wrong,
        "MB before": round(before, 1),
        "MB at each quarter": " ".join(f"{size:.1f}" for size in sizes),
    }


def service() -> None:
    """The service of ALS (d=64) at 3.7k items: its throughput and tail at 32 connections, and 1,000 of them for 60 s.

    Beside it, in turns, a bare Starlette route that answers a fixed JSON of that size; generated events, seed 0. Each
    answer is compared with the serial one. One process a service, one thread, two cores that others used too.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = measure(generated(Path(folder) / "artefact"), 60.0, 9)
    write("service", [{"what": name, "value": str(value)} for name, value in found.items()])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artefact", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artefact = given.artefact or generated(Path(folder) / "artefact")
        for name, value in measure(artefact, given.seconds, given.rounds).items():
            print(f"{name:>24}: {value}")


def generated(folder: Path) -> Path:
    """An artefact with as many items as ML-1M has."""
    from collabkit import CollabDataLoaders, collab_learner, datasets

    ratings = datasets.synthetic(n_users=2000, n_items=3700, n_ratings=100_000, seed=0).ratings
    dls = CollabDataLoaders.from_df(ratings, user_name="user", item_name="title", feedback="implicit", seed=0)
    learn = collab_learner(dls, n_factors=64)
    with learn.no_bar(), learn.no_logging():
        learn.fit_als(3)
    return learn.export(folder)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
