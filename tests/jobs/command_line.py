"""Everything on the command line: train on a purchase log, search, compare, take tomorrow in, recommend, repeat."""

import subprocess
import sys

import numpy as np
import pandas as pd

rng, n = np.random.default_rng(0), 4000
who, own = rng.integers(0, 150, n), rng.random(n) < 0.6
what = np.where(own, who % 5 + 5 * rng.integers(0, 20, n), rng.integers(0, 100, n))
log = pd.DataFrame({"user": who, "item": what, "units": rng.integers(1, 4, n), "at": np.arange(n)})
log[:-200].to_csv("log.csv", index=False), log[-200:].assign(user=lambda t: t["user"] + 9000).to_csv("new.csv")
for line in """train log.csv --implicit --counts units --time at --split time --factors 8 --epochs 4 --out als
               tune log.csv --implicit --try n_factors=4,8 --try n_sweeps=2 --trials 2 --minutes 1 --out tuned
               auto log.csv --implicit --counts units --time at --split time --minutes 0.1 --out best
               compare als best --metric NDCG@10 --out table.csv
               update als new.csv
               recommend als --user 9003 -k 5 --why --out list.csv
               train --config als.run.toml --refit --out again""".splitlines():
    subprocess.run([sys.executable, "-m", "collabkit.cli", *line.split()], check=True)
assert len(pd.read_csv("list.csv")) == 5 and (pd.read_csv("table.csv")["value"] > 0.1).all()
