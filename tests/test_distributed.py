"""Several processes do what one does; and what goes wrong in one of them ends all, with a reason."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import several
import torch

from collabkit import cli
from collabkit.data.processes import Processes, joined, launched, processes
from collabkit.data.runs import Runs
from collabkit.train.shares import Share

HERE = Path(__file__).parent


class Played(NamedTuple):
    """What was left of the scenarios: how their processes ended, what they printed and returned."""

    folder: Path
    ended: dict

    def of(self, scenario: str, size: int = 2) -> list:
        name = f"{scenario}-{size}"
        for rank in range(size):
            code = self.ended[name].get(str(rank), {"code": "hung"})["code"]
            assert code == 0, f"process {rank} ended with {code}: {self.said(scenario, rank, size)[-2000:]}"
        return [torch.load(self.folder / f"{name}-{rank}.pt") for rank in range(size)]

    def said(self, scenario: str, rank: int, size: int = 2) -> str:
        return (self.folder / f"{scenario}-{size}-{rank}.log").read_text()

    def failed(self, scenario: str, rank: int, size: int = 2) -> tuple[str, float]:
        """The last lines that a process which failed printed, and its seconds."""
        end = self.ended[f"{scenario}-{size}"].get(str(rank))
        assert end is not None, f"process {rank} of {scenario} hung"
        assert end["code"] == 1, (end, self.said(scenario, rank, size))
        return self.said(scenario, rank, size), end["seconds"]

    def failed_on_each(self, scenario: str, words: str, seconds: float) -> None:
        """Each of two processes failed in time, and said so."""
        for rank in range(2):
            text, took = self.failed(scenario, rank)
            assert words in text, text
            assert took < seconds


def play(script: str, folder: Path, timeout: float, *flags: str) -> Played:
    """What a script beside this file leaves in the folder, that plays its scenarios in processes of one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    environment = {key: value for key, value in environment.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    command = [sys.executable, *flags, str(HERE / script), str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=timeout, capture_output=True)
    return Played(folder, json.loads((folder / "ended.json").read_text()))


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play("several.py", tmp_path_factory.mktemp("several"), timeout=400)


def differences(one, other) -> dict[str, float]:
    """The largest difference by name, relative to the largest number; of the unknown id's row, see below, the rest."""
    assert one.keys() == other.keys()
    found = {}
    for name, value in one.items():
        value, there = value.double(), other[name].double()
        assert value.shape == there.shape, name
        if "tables" in name:  # row 0 is found by a descent to where its loss is flat, which rounding takes elsewhere
            assert (value[0] - there[0]).abs().max() < 1e-2
            value, there = value[1:], there[1:]
        if value.numel():
            found[name] = float((value - there).abs().max() / max(1.0, float(value.abs().max())))
    return found


@pytest.mark.parametrize("name", several.CASES)
def test_two_processes_train_as_one(played, name):
    (one,), two = played.of("every_case", 1), played.of("every_case", 2)
    found = differences(one[name], two[0][name])
    assert max(found.values()) < 1e-5, {key: value for key, value in found.items() if value >= 1e-5}
    assert all(torch.equal(value, two[1][name][key]) for key, value in two[0][name].items())


@pytest.mark.parametrize("name", several.FEW)
def test_three_processes_train_as_one(played, name):
    (one,), three = played.of("every_case", 1), played.of("few_cases", 3)
    assert max(differences(one[name], three[0][name]).values()) < 1e-5
    for other in three[1:]:
        assert all(torch.equal(value, other[name][key]) for key, value in three[0][name].items())


def test_trained_weights_moved(played):
    """Else equal weights would say nothing."""
    (one,) = played.of("every_case", 1)
    assert all(bool(torch.isfinite(value).all()) for case in one.values() for value in case.values())
    by_steps = [case for name, case in one.items() if not name.startswith("least_squares")]
    assert all(float(case["losses"].abs().max()) > 0 for case in by_steps)


BAD = {
    "other_rows": "training rows is '480",
    "other_ids": "users is ",
    "other_features": "features of items is ",
    "no_seed": "seed is '0' on process 0, '1' on process 1",
    "other_arguments": "epochs is '1' on process 0, '2' on process 1",
    "other_rows_to_evaluate": "same rows to evaluate: pairs is ",
    "counts_its_own_rows": "GradientAccumulation counts the rows of one process",
    "cannot_write": "a-file exists and is not a collabkit artefact",
}


@pytest.mark.parametrize(("scenario", "words"), BAD.items())
def test_what_does_not_fit_is_an_error_on_each_process(played, scenario, words):
    played.failed_on_each(scenario, words, seconds=60)


def test_an_error_of_one_process_ends_the_others_and_is_named(played):
    assert "no room for it" in played.failed("raises", 1)[0]
    text, seconds = played.failed("raises", 0)
    assert "ProcessesError: " in text and "process 0 of 2 could not exchange the gradients of a batch" in text
    assert "process 1 ended with MemoryError: " in text and "no room for it" in text and seconds < 60


def test_a_killed_process_ends_the_others_and_the_training_goes_on_from_its_checkpoint(played):
    assert played.ended["killed-2"]["1"]["code"] == -9
    text, seconds = played.failed("killed", 0)
    assert "process 0 of 2 could not exchange " in text and "ended without a message" in text and seconds < 60
    assert "resume=True" in text
    first, second = played.of("goes_on")
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_process_that_hangs_is_given_up(played):
    text, seconds = played.failed("hangs", 0)
    assert "did not answer for 2 seconds" in text and seconds < 60


def test_a_process_that_does_not_come_is_given_up(played):
    text, seconds = played.failed("alone", 0)
    assert "did not meet the others within 2 seconds" in text and seconds < 60


def test_a_fit_outside_of_the_context_is_said_to_be_alone(played):
    first, second = played.of("outside")
    assert all(torch.equal(value, second[name]) for name, value in first.items() if "weight" in name)
    for rank in range(2):
        assert f"this is process {rank} of 2, and each of them trains alone" in played.said("outside", rank)


def test_one_process_writes_and_speaks(played):
    assert "Better model found" in played.said("every_case", 0)
    assert "Better model found" not in played.said("every_case", 1)


def test_without_a_launcher_the_context_changes_nothing(trained, monkeypatch):
    assert launched() == (0, 1)
    with trained.distrib_ctx() as inside:
        assert inside is trained and processes().alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE=2 and no RANK"):
        launched()
    with pytest.raises(ValueError, match="timeout"), joined(0):
        pass


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("batch", ["bpr", "users_at_once", "self_attention", "shared_softmax", "weighted"])
def test_shares_are_the_batch(batch, size):
    """Rows, positives and places of hits come back together from the shares."""
    dls = {
        "bpr": lambda: several.loaders(n_neg=2),
        "users_at_once": lambda: several.loaders(negatives="shared", n_neg=20, by_user=True, bs=17),
        "self_attention": lambda: several.in_order(),
        "shared_softmax": lambda: several.loaders(negatives="shared", n_neg=20),
        "weighted": lambda: several.loaders(weights="inverse_user"),
    }[batch]()
    whole = dls.train.one_batch()
    shares = [Share(whole, Processes(rank, size)) for rank in range(size)]
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert torch.equal(torch.cat([share.batch.positives for share in shares]), whole.positives)
    assert sum(len(share.batch[0]) for share in shares) == len(whole[0])
    if whole.__dict__.get("hits") is not None:
        assert sum(share.batch.hits.shape[1] for share in shares) == whole.hits.shape[1]
    for share in shares:
        n = len(share.batch.positives)
        assert share.whole((n, 3))[0] == [len(whole.positives), 3]


def test_rows_are_dealt_by_what_they_cost():
    runs = Runs.group([0, 0, 0, 0, 3], [1, 2, 3, 4, 1], 6)
    bounds = Processes(0, 2).bounds(runs.lengths + 1)
    assert bounds == [0, 2, 6] or bounds == [0, 1, 6]
    assert Processes(0, 3).bounds(torch.zeros(0)) == [0, 0, 0, 0]


def test_the_command_trains_in_several_processes(played):
    played.of("command")
    text = played.said("command", 0)
    assert text.count("RMSE") == text.count("artefact written to") == 1 and "valid loss" in text
    assert played.said("command", 1) == ""
    assert (played.folder / "model" / "model.safetensors").is_file()


def test_the_command_starts_torchs_launcher(monkeypatch):
    started = []

    def launch(config, program):
        started.append((config.nproc_per_node, config.max_restarts, program))
        return lambda *words: started.append(words)

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launch)
    monkeypatch.setattr(sys, "argv", ["collabkit", "train", "no-file.csv", "--out", "model", "--nproc", "3"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert started == [(3, 0, sys.executable), ("-m", "collabkit.cli", *sys.argv[1:])]
