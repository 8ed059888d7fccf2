"""Tables in shards: several processes, each with its part of the rows, do what one does (`make test-torchrec`)."""

import importlib.util
import sys
from pathlib import Path

import pytest
import several
import shards
import torch
from test_distributed import differences, play

from collabkit import CollFilter, Recommender, SASRec, collab_learner, load_learner
from collabkit.models.sharded import ShardedTables, in_shards, is_sharded

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    if importlib.util.find_spec("torchrec") is None:
        pytest.skip("an optional engine: TorchRec is not installed; make test-torchrec has it")
    return play("shards.py", tmp_path_factory.mktemp("shards"), 280, "-W", "ignore")


@pytest.mark.parametrize("name", shards.CASES)
def test_two_processes_with_shards_train_as_one_with_all_rows(played, name):
    (one,), two = played.of("every_case", 1), played.of("every_case", 2)
    found = differences(one[name], two[0][name])
    assert max(found.values()) < 1e-5, {key: value for key, value in found.items() if value >= 1e-5}
    assert all(torch.equal(value, two[1][name][key]) for key, value in two[0][name].items())


@pytest.mark.parametrize("name", ["ratings", "bpr"])
def test_three_processes_with_uneven_shards_train_as_one(played, name):
    (one,), three = played.of("every_case", 1), played.of("few_cases", 3)
    assert max(differences(one[name], three[0][name]).values()) < 1e-5


def test_what_was_trained_moved(played):
    """Else equal weights would say nothing."""
    (one,) = played.of("every_case", 1)
    for name, case in one.items():
        assert all(bool(torch.isfinite(value).all()) for value in case.values())
        moved = [value for key, value in case.items() if key.startswith("tables of")]
        largest = max(float(part.abs().max()) for part in moved) if moved else 1.0
        assert largest > 0.02 or name == "one_row_a_batch"  # initial rows are cut at .02; that one's rate is small


def test_each_process_holds_half_of_the_bytes(played):
    (one,), two = played.of("bytes_of_shards", 1), played.of("bytes_of_shards", 2)
    for own in two:
        assert float(own["held"] / one["held"]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("mapped", [True, False])
def test_the_artefact_of_shards_gives_the_same_lists_in_one_process(played, mapped):
    case, users = played.of("every_case", 2)[0]["exported"], several.source().ratings["user"].unique()
    folder = played.folder / "work-2" / "artefact"
    rec = Recommender.load(folder) if mapped else load_learner(folder).recommender
    lists = rec.recommend(users, 5)
    assert torch.equal(torch.from_numpy(rec.data.items.encode(lists["title"])), case["title"])
    assert torch.allclose(torch.tensor(lists["score"]), case["score"], atol=1e-6)
    assert torch.equal(torch.cat([table.weight.detach() for table in rec.model.item_side.tables], 1), case["rows"])
    assert not is_sharded(rec.model) and not list(folder.parent.glob(".*"))


def test_a_killed_process_ends_the_others_and_the_training_goes_on(played):
    assert played.ended["killed-2"]["1"]["code"] == -9
    text, seconds = played.failed("killed", 0)
    assert "process 0 of 2 could not exchange the rows of users" in text and "ended without a message" in text
    assert "resume=True" in text and seconds < 30
    first, second = played.of("goes_on")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_an_error_of_one_process_ends_the_others_and_is_named(played):
    assert "no room for it" in played.failed("raises", 1)[0]
    text, seconds = played.failed("raises", 0)
    assert "process 1 ended with MemoryError: " in text and seconds < 30


def test_weights_that_are_no_numbers_on_one_process_end_the_training_of_both(played):
    assert [int(part["epochs"]) for part in played.of("diverges")] == [1, 1]


BAD = {
    "outside": "call this within learn.distrib_ctx(), and on all of them",
    "one_asks_alone": "call this within learn.distrib_ctx(), and on all of them",
    "clips": "GradientClip looks at the gradients of all rows at once",
    "least_squares": "alternating least squares needs all rows in one process",
    "folds_in": "are dealt to 2 processes, and take no new ids",
    "updates": "an update needs all rows in one process",
    "one_has_other_tables": "do not have the same learner: ",
    "saves_otherwise": "an artefact by other ways than learn.export needs all rows in one process",
    "cannot_write": "a-file exists and is not a collabkit artefact",
}


@pytest.mark.parametrize(("scenario", "words"), BAD.items())
def test_what_cannot_be_is_an_error_on_each_process(played, scenario, words):
    played.failed_on_each(scenario, words, seconds=30)


def test_checkpoints_of_shards_want_as_many_processes(played):
    for rank in range(3):
        assert "are not of 3 processes" in played.failed("goes_on_by_three", rank, 3)[0]


def test_without_torchrec_several_processes_are_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec.distributed.comm_ops", None)
    monkeypatch.setenv("WORLD_SIZE", "2"), monkeypatch.setenv("RANK", "1")
    with pytest.raises(ImportError, match="requirements-torchrec.txt"):
        collab_learner(several.loaders("explicit"), sharded=True)


def test_one_process_alone_needs_no_torchrec_and_starts_at_the_rows_of_many(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrec.distributed.comm_ops", None)
    learn = shards.make()
    assert not is_sharded(learn.model) and learn.model.sparse
    shown = several.quiet(learn).predict(1, several.source().ratings["title"][0])
    assert 0 < shown < 5.5


def test_initial_rows_do_not_depend_on_the_number_of_processes(monkeypatch):
    monkeypatch.setattr("collabkit.models.sharded._torchrec", lambda: None)
    monkeypatch.setattr("collabkit.models.sharded.BLOCK", 16)

    def rows(rank, size):
        monkeypatch.setenv("WORLD_SIZE", str(size)), monkeypatch.setenv("RANK", str(rank))
        torch.manual_seed(5)
        tables = ShardedTables("user", 101, [3, 1])
        return [tables.own(table) for table in tables]

    one = rows(0, 1)
    for size in (2, 3, 7):
        parts = [rows(rank, size) for rank in range(size)]
        for whole, *own in zip(one, *parts, strict=True):
            assert torch.equal(whole, torch.cat(own))
    assert bool((one[0][1:] != 0).all()) and not one[0][0].any() and one[0].std() == pytest.approx(0.009, abs=0.001)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": SASRec}, "models of two tables"),
        ({"model": lambda: CollFilter(42, 31)}, "a finished CollFilter"),
        ({"start": "als"}, "start='als' needs all rows"),
        ({"opt_func": torch.optim.SGD}, "leave opt_func= out"),
        ({"sharded": "users"}, "sharded must be True or False"),
    ],
)
def test_what_shards_are_not_for(options, words):
    model = options.get("model")
    options = {**options, "model": model()} if model is not None and not isinstance(model, type) else options
    with pytest.raises((TypeError, ValueError), match=words):
        collab_learner(several.loaders(), **{"sharded": True, **options})


def test_features_are_refused():
    dls = several.loaders("explicit", items=several.source().items, item_features={"year": "binned"})
    with pytest.raises(TypeError, match="without side features"):
        collab_learner(dls, sharded=True)


def test_only_within_the_context_are_tables_made_in_shards():
    with in_shards():
        assert isinstance(CollFilter(5, 6).user_side.tables, ShardedTables)
    assert not isinstance(CollFilter(5, 6).user_side.tables, ShardedTables)
