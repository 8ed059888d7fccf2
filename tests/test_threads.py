"""One recommender asked by many threads: every answer is the serial one for the data that it was given."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from helpers import Y_RANGE, make_dls, silence, synthetic

from collabkit import Recommender, collab_learner
from collabkit.models.base import evaluating
from collabkit.serve.lock import ReadWriteLock

FEATURES = {"year": "binned", "genres": "multi"}
N_WRITES = 12


def learner(kind="dot", **kwargs):
    """Of ratings with film features; in training mode, with dropout where the model has any."""
    dls = make_dls(items=synthetic().items, item_features=FEATURES)
    options = {"dot": {"n_factors": 6}, "nn": {"use_nn": True, "layers": [12], "ps": 0.3, "embed_p": 0.3}}[kind]
    learn = silence(collab_learner(dls, y_range=Y_RANGE, **options, **kwargs))
    learn.fit(1, 1e-2)
    learn.model.train()
    return learn


def questions(rec):
    """Functions of a recommender, each with an answer of its own."""
    users, items = rec.users.ids, rec.items.ids
    history = {items[3]: 5.0, items[7]: 2.0, items[11]: 4.0}
    asked = [lambda r, u=u: r.recommend(u, 5) for u in users[:6]]
    asked += [lambda r, u=u: r.predict(u, items[:9]) for u in users[3:6]]
    asked += [lambda r, i=i: r.similar_items(i, 4) for i in items[:4]]
    asked += [lambda r, part=part: r.recommend(history=history, items=items[part], k=5) for part in HALVES]
    asked += [lambda r: r.default_list(5), lambda r: r.evaluate(k=5, metrics=["NDCG"], n_boot=1)]
    asked += [
        lambda r, part=part: r.evaluate(k=5, metrics=["Recall"], n_boot=1, candidates=items[part]) for part in HALVES
    ]
    return asked


HALVES = (slice(0, 60), slice(60, 120))


def write(rec, j):
    """The j-th change: a new film, or a new person."""
    if j % 2:
        old = rec.items.ids[j]
        rec.fold_in(
            pd.DataFrame({"user": [10_000 + j] * 2, "title": [old, rec.items.ids[j + 20]], "rating": [5.0, 1.0]})
        )
    else:
        film = synthetic().items.iloc[[j]].assign(title=f"Film {j} (1999)")
        rec.add_items(film)


def same(a, b):
    return a.equals(b) if isinstance(a, pd.DataFrame) else np.array_equal(a, b)


def ask_from_threads(kind, n_answers, n_threads):
    """How many answers differ from the serial ones of all versions of the data that were there meanwhile."""
    learn = learner(kind)
    rec = learn.recommender
    twin = Recommender(copy.deepcopy(rec.model).eval(), rec.data)
    asked, right = questions(rec), []
    for j in range(N_WRITES + 1):
        right.append([ask(twin) for ask in asked])
        if j < N_WRITES:
            write(twin, j)
    assert not all(same(a, b) for a, b in zip(right[0], right[-1], strict=True))  # a version can be told
    begun, done, counter, wrong = [0], [0], iter(range(n_answers)), []
    lock, stop = threading.Lock(), threading.Event()

    def read():
        while True:
            with lock:
                j = next(counter, None)
            if j is None:
                return
            first = done[0]
            answer = asked[j % len(asked)](rec)
            if not any(same(answer, right[v][j % len(asked)]) for v in range(first, begun[0] + 1)):
                wrong.append(j % len(asked))

    def change():
        for j in range(N_WRITES):
            begun[0] += 1
            write(rec, j)
            done[0] += 1
            stop.wait(0.05)

    with ThreadPoolExecutor(n_threads + 1) as pool:
        for future in [pool.submit(change), *(pool.submit(read) for _ in range(n_threads))]:
            future.result()
    assert rec.model.training
    return wrong


@pytest.mark.filterwarnings("ignore::collabkit.CollabWarning")
@pytest.mark.parametrize("kind", ["dot", "nn"])
def test_answers_from_threads_are_the_serial_ones(kind):
    assert ask_from_threads(kind, n_answers=160, n_threads=8) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::collabkit.CollabWarning")
@pytest.mark.parametrize("kind", ["dot", "nn"])
def test_twenty_thousand_answers_from_32_threads(kind):
    assert ask_from_threads(kind, n_answers=20_000, n_threads=32) == []


def test_a_model_is_in_evaluation_mode_until_the_last_thread_has_left():
    model = learner("nn").model
    frozen = model.emb_drop.eval()
    inside, go = threading.Barrier(2), threading.Event()

    def stay():
        with evaluating(model):
            inside.wait(10)
            go.wait(10)
            return model.training

    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(stay)
        inside.wait(10)
        with pytest.raises(ZeroDivisionError), evaluating(model):
            1 / 0  # noqa: B018
        assert not model.training
        go.set()
        assert staying.result() is False
    assert model.training and model.layers.training and not frozen.training


def test_the_lock_lets_readers_in_together_and_writers_alone():
    lock, log = ReadWriteLock(), []
    together = threading.Barrier(3)

    def read():
        with lock.read(), lock.read():
            together.wait(10)  # breaks unless three are in at once
            log.append("read")

    def change():
        with lock.write(), lock.read(), lock.write():
            log.extend(["in", "out"])

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(read) for _ in range(3)]:
            future.result()
    with lock.read():
        writer = threading.Thread(target=change)
        writer.start()
        writer.join(0.1)
        assert "in" not in log
        with lock.read():  # a reader goes on although a writer waits
            log.append("again")
    writer.join(10)
    assert log == ["read"] * 3 + ["again", "in", "out"]
    assert not copy.deepcopy(lock)._readers


@pytest.mark.parametrize("how", ["read", "write"])
def test_the_lock_is_free_after_an_error(how):
    lock = ReadWriteLock()
    with pytest.raises(ZeroDivisionError), getattr(lock, how)():
        1 / 0  # noqa: B018
    thread = threading.Thread(target=lambda: lock.write().__enter__())
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
