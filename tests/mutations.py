"""Does the suite see it when a key line breaks? `python tests/mutations.py [name ...]` breaks them, one at a time.

Each mutation is made in a copy of the project, in which the tests named beside it are run until the first one fails. A
mutation that no test sees is printed as SURVIVED, and the exit status is 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MUTATIONS = {  # name: file, line, what stands in its place, tests
    "precision by k + 1": ("evaluate/metrics.py", "_hits(ranks, groups, k) / k\n", "_hits(ranks, groups, k) / (k + 1)\n", "metrics"),
    "recall by k": ("evaluate/metrics.py", "k) / np.bincount(groups)\n", "k) / np.minimum(np.bincount(groups), k)\n", "metrics"),
    "ndcg discount": ("evaluate/metrics.py", "np.log2(ranks + 1.0)", "np.log2(ranks + 2.0)", "metrics"),
    "ndcg cut": ("evaluate/metrics.py", "np.where(ranks <= k, 1 / np.log2", "np.where(ranks < k, 1 / np.log2", "metrics"),
    "mrr cut": ("evaluate/metrics.py", "np.where(best <= k, 1 / best", "np.where(best < k, 1 / best", "metrics"),
    "map norm": ("evaluate/metrics.py", "0.0)) / np.minimum(n, k)", "0.0)) / n", "metrics"),
    "ties favour the model": ("retrieval/ranking.py", "logits.ge_(own[:, None]).sum(1)", "1 + logits.gt_(own[:, None]).sum(1)", "ranking evaluate"),
    "ties in the best k": ("retrieval/ranking.py", "(best[row] >= own[:, None]).sum(1)", "1 + (best[row] > own[:, None]).sum(1)", "ranking evaluate"),
    "hidden items are zero": ("retrieval/ranking.py", "flat.numpy()[index] = -np.inf", "flat.numpy()[index] = 0.0", "ranking recommender"),
    "hidden cells off by one": ("retrieval/ranking.py", "hidden.cells[part] - first * width", "hidden.cells[part] - first * width - 1", "ranking recommender"),
    "hidden columns off by one": ("retrieval/ranking.py", "runs = hidden.of(users)\n        columns = runs.values - 1 if", "runs = hidden.of(users)\n        columns = runs.values - 2 if", "ranking recommender"),
    "hidden items listed": ("retrieval/ranking.py", "items[scores == -torch.inf] = 0", "items[scores == torch.inf] = 0", "ranking recommender"),
    "validation pairs hidden in evaluate('valid')": ("data/dataset.py", "self.known if is_valid else self.seen", "self.seen", "evaluate canaries recommender"),
    "validation pairs not hidden in a final test": ("evaluate/task.py", "data.hidden(filter_seen, is_valid=is_valid)", "data.hidden(filter_seen, is_valid=True)", "evaluate canaries recommender"),
    "unknown users are ranked": ("evaluate/task.py", "relevant & (test.user_idx > 0) &", "relevant & (test.user_idx >= 0) &", "evaluate unknown_ids"),
    "the lowest rating is liked": ("evaluate/task.py", "train.rating[train.rating > lowest]", "train.rating[train.rating >= lowest]", "thresholds"),
    "a threshold is not reached": ("data/checks.py", ".astype(np.float32) >= np.float32", ".astype(np.float32) > np.float32", "thresholds filters"),
    "validation items are recommended": ("data/dataset.py", "self.known.union(self.valid.pairs)", "self.known", "recommender evaluate canaries"),
    "a history holds its own event": ("train/batches.py", "rows - self.length), rows)", "rows - self.length), rows + 1)", "contract batches"),
    "find the other pairs": ("data/runs.py", "self.keys[at[inside]] == keys[inside]", "self.keys[at[inside]] >= keys[inside]", "runs"),
    "one more of the last": ("data/runs.py", "torch.maximum(self.start[1:] - k,", "torch.maximum(self.start[1:] - k - 1,", "runs"),
    "seen items are drawn": ("train/sampling/rows.py", "begin[items] - taken", "begin[items]", "sampling"),
    "popularity without the user": ("train/sampling/rows.py", "self._log_weight[items] - self._log_left[users][:, None]", "self._log_weight[items]", "sampling"),
    "the last of repeated events": ("data/feedback.py", "np.lexsort([time, np", "np.lexsort([-time, np", "implicit filters prepare"),
    "counts of zero are events": ("data/feedback.py", "values > 0, f\"count", "values >= 0, f\"count", "implicit filters"),
    "the cut goes to training": ("data/splits/rows.py", "(times < _moment(times, moment))", "(times <= _moment(times, moment))", "splits backtest"),
    "a window without an end": ("data/splits/rows.py", "~early & before(times, later(times, first, days))", "~early", "splits"),
    "windows one short of the last event": ("data/splits/rows.py", "last - j * _span(times, days) + step", "last - j * _span(times, days)", "splits backtest"),
    "popular items are novel": ("retrieval/tilt.py", "self.novelty_weight * (bits - mean)", "self.novelty_weight * (mean - bits)", "tilt"),
    "old items are fresh": ("retrieval/tilt.py", "torch.exp2(-data", "torch.exp2(data", "tilt"),
    "the spread of all, not each": ("retrieval/tilt.py", "return logits + spread * offsets", "return logits + spread.mean() * offsets", "tilt"),
    "the score shown is the sum": ("retrieval/ranking.py", "best = own.gather(1, position)", "best = best + 0 * own.gather(1, position)", "tilt"),
    "an item is as old as its last event": ("data/interactions.py", "self.item_idx, self.time, \"amin\")", "self.item_idx, self.time % (2**62), \"amax\", include_self=False)", "tilt"),
    "ages know the validation part": ("data/dataset.py", "[self.train] if is_valid or self.valid is None", "[self.train] if self.valid is None", "tilt"),
    "the window's future is there": ("train/backtest.py", "until = ratings[before(times, later(times, cut, days))]", "until = ratings", "backtest"),
    "pairs of training are found again": ("train/backtest.py", "return train, valid[new], notes", "return train, valid, notes", "backtest"),
    "leaked events are not counted": ("evaluate/audit.py", "leaked = train.time > asked", "leaked = train.time < 0 * asked", "audit"),
    "one more left out": ("data/splits/rows.py", "(from_end < n) &", "(from_end <= n) &", "splits"),
    "jackknife counts itself": ("coldstart/fold_in/jackknife.py", "(counts[items] - 1)", "(counts[items] + 0)", "fold_in"),
    "jackknife turned round": ("coldstart/fold_in/jackknife.py", "[part - change for", "[part + change for", "fold_in"),
    "least squares without a penalty": ("train/als.py", "torch.addcmul(V @ gram, V, penalty)", "V @ gram", "als"),
    "least squares of twos": ("train/als.py", "(1 if pull is None else pull)", "(2 if pull is None else pull)", "als"),
    "bpr turned round": ("losses.py", "F.softplus(neg - pos[:, None])", "F.softplus(pos[:, None] - neg)", "ranking_losses"),
    "hinge without a margin": ("losses.py", "neg - pos[:, None] + margin", "neg - pos[:, None]", "ranking_losses"),
    "logQ turned round": ("losses.py", "neg - log_counts], dim=1)", "neg + log_counts], dim=1)", "ranking_losses"),
    "weights of any mean": ("data/weights.py", "(values / values.mean())", "values", "weights"),
    "filter_seen forgets validation": ("data/dataset.py", "return None if not filter_seen else self.known if is_valid", "return None if not filter_seen else self.known if True", "recommender"),
    "ranks from 2": ("serve/recommender.py", 'data["rank"] = left.cumsum(1)[left]', 'data["rank"] = left.cumsum(1)[left] + 1', "recommender"),
    "an item is its own neighbour": ("retrieval/neighbours.py", "cosine[torch.arange(len(part)), part] = -torch.inf", "pass", "recommender"),
    "ids off by one": ("data/vocab.py", "self.index.take(idx - 1)", "self.index.take(idx - 2)", "vocab"),
    "another data hash": ("serve/artefact.py", 'data.train.data_hash() != config.get("data_hash")', 'None != config.get("data_hash")', "artefact_attacks artefact"),
    "random numbers start anew": ("train/checkpoint.py", "torch.set_rng_state(cpu)", "pass", "checkpoints"),
    "the loader starts anew": ("train/checkpoint.py", 'learn.dls.train.epoch = state["loader_epoch"]', "pass", "checkpoints"),
    "the mode flips too early": ("models/base.py", "if inside > 1:", "if inside > 2:", "threads"),
    "epochs have one order": ("train/loader.py", "self.epoch += bool(self.shuffle)", "self.epoch += 0", "learner batches"),
    "a window's target is its input": ("train/batches.py", "torch.arange(1, len(at) + 1)", "torch.arange(len(at))", "sequences"),
    "attention looks ahead": ("models/sasrec.py", "is_causal=True", "is_causal=False", "sequences"),
    "averages look ahead": ("models/averaged_history.py", "* (place[:, None] >= place)", "* (place[:, None] <= place)", "sequences"),
    "what came later is known": ("data/dataset.py", "times <= moment[runs.rows]", "times >= 0", "sequences"),
    "a test without the validation event": ("evaluate/task.py", "histories_before(self._rows, is_valid=self._is_valid)", "histories_before(self._rows, is_valid=True)", "sequences"),
    "states without a next event": ("models/next_item.py", "block -= torch", "block -= 0 * torch", "sequences"),
    "pairs one further apart": ("models/next_item.py", "weight = a ** (distances - 1.0).double()", "weight = a ** (distances - 0.0).double()", "sequences"),
    "histories cut from the right": ("data/runs.py", "torch.maximum(self.start[1:] - k, self.start[:-1]), self.start[1:]", "self.start[:-1], torch.minimum(self.start[:-1] + k, self.start[1:])", "sequences runs"),
    "windows at one place": ("train/batches.py", "torch.where(n > length, torch.randint(", "torch.where(n > 10**9, torch.randint(", "sequences"),
    "biases decay": ("train/optim.py", 'value * group["wd_scale"]', "value", "optim"),
}  # fmt: skip


def survives(name: str) -> bool:
    """Whether no test fails with the mutation `name`."""
    file, line, other, tests = MUTATIONS[name]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        ignored = shutil.ignore_patterns(".git", ".venv", "site", "__pycache__", "*.egg-info", "demo-output")
        shutil.copytree(ROOT, copy, ignore=ignored)
        place = copy / "collabkit" / file
        text = place.read_text(encoding="utf-8")
        if text.count(line) != 1:
            raise SystemExit(f"{name}: {line!r} stands {text.count(line)} times in {file}, not once")
        place.write_text(text.replace(line, other), encoding="utf-8")
        files = [f"tests/test_{test}.py" for test in tests.split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
        data = os.environ.get("COLLABKIT_DATA", str(ROOT.parent / "shared" / "data"))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLLABKIT_DATA": data}
        found = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1200)
        seen = next((text for text in found.stdout.splitlines() if text.startswith(("FAILED", "ERROR"))), "")
        print(f"{'caught  ' if found.returncode else 'SURVIVED'} {name}: {seen[:100]}", flush=True)
        return found.returncode == 0


def main() -> int:
    """Break the named lines, or all of them, two at a time."""
    names = sys.argv[1:] or list(MUTATIONS)
    with ThreadPoolExecutor(2) as pool:
        left = sum(pool.map(survives, names))
    print(f"{len(names) - left} of {len(names)} mutations caught")
    return min(left, 1)


if __name__ == "__main__":
    sys.exit(main())
