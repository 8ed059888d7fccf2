"""Fixtures shared by the tests: a small hand-written table, a planted one, a trained learner, and real data if any."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "collabkit", max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("collabkit")


@pytest.fixture
def toy() -> pd.DataFrame:
    """Ten hand-written rows: 4 users, 5 titles, whole-number ratings, times without ties within a user."""
    return pd.DataFrame(
        [
            ("ann", "Alien", 5.0, 10),
            ("ann", "Brazil", 3.0, 30),
            ("ann", "Cabaret", 4.0, 20),
            ("bob", "Alien", 4.0, 40),
            ("bob", "Dune", 2.0, 50),
            ("cat", "Brazil", 1.0, 70),
            ("cat", "Cabaret", 2.0, 60),
            ("cat", "Alien", 5.0, 80),
            ("dan", "Eraserhead", 3.0, 90),
            ("ann", "Dune", 1.0, 5),
        ],
        columns=["user", "title", "rating", "time"],
    )


@pytest.fixture(scope="session")
def _planted() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    pairs = rng.choice(30 * 20, size=400, replace=False)
    user, item = pairs // 20, pairs % 20
    taste, kind = rng.normal(size=30), rng.normal(size=20)
    rating = np.clip(np.round(3 + taste[user] * kind[item]), 1, 5)
    return pd.DataFrame({"user": user + 100, "item": item + 1000, "rating": rating, "time": rng.permutation(400)})


@pytest.fixture
def planted(_planted) -> pd.DataFrame:
    """400 rows of 30 users and 20 items with a planted rank-one structure and no repeated pair."""
    return _planted.copy()


@pytest.fixture(scope="session")
def trained():
    """A dot-product learner trained for three epochs on a generated data set; do not train or change it."""
    from collabkit import CollabDataLoaders, collab_learner, datasets

    ratings = datasets.synthetic(n_users=200, n_items=150, n_ratings=6000, min_events=10, seed=1).ratings
    dls = CollabDataLoaders.from_df(ratings, user_name="user", item_name="title", rating_name="rating", seed=42)
    learn = collab_learner(dls, n_factors=8, y_range=(0, 5.5))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 2e-2, wd=0.1)
    return learn


def data_folder() -> Path:
    """The folder of real data sets: `COLLABKIT_DATA`, else `../shared/data` beside the repository root."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("COLLABKIT_DATA", beside))


@pytest.fixture(scope="session")
def movielens_dir() -> Path:
    """The folder with `ml-100k`, `ml-latest-small`, ...; a test that asks for it is skipped where there is none."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"no real data: no MovieLens at {folder}; set COLLABKIT_DATA to the folder that holds ml-100k")
    return folder


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=75, help="tables that tests/test_fuzz.py makes")
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too: minutes each")
    parser.addoption("--cuda", action="store_true", help="train on the GPU, and run the tests marked cuda too")


def pytest_configure(config):
    """Tests compare tensors, to the last digit where they can: they train on the CPU, also where there is a GPU."""
    if not config.getoption("--cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    import torch

    torch.backends.cudnn.allow_tf32 = False  # float32 as the CPU's, to compare with


def pytest_collection_modifyitems(config, items):
    left = [mark for mark in ("slow", "cuda") if not config.getoption(f"--{mark}")]
    without = [item for item in items if any(item.get_closest_marker(mark) for mark in left)]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


# A test may skip for want of data that the project must not hold, or of what it is about.
MAY_SKIP = ("no real data", "a closed-form model has no epochs", "limits are those of POSIX", "no encoder of sentences",
            "an optional engine:")  # fmt: skip


def _undue_skips(config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skips = [] if reporter is None else [report.longrepr for report in reporter.stats.get("skipped", [])]
    reasons = [(str(skip[0]), str(skip[-1]).removeprefix("Skipped: ")) for skip in skips if isinstance(skip, tuple)]
    return [f"{file}: {reason}" for file, reason in reasons if not reason.startswith(MAY_SKIP)]


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == 0 and _undue_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for line in _undue_skips(config):
        terminalreporter.write_line(f"SKIPPED BUT SHOULD HAVE RUN {line}", red=True)
