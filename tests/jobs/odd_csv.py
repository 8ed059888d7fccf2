"""A CSV of the shop that begins with the date: who buys what next?"""

import numpy as np
import pandas as pd

from collabkit import EASE, CollabDataLoaders, filters

rng = np.random.default_rng(0)
taste = rng.integers(0, 3, 300)  # of each customer; they buy from one of three shelves of ten goods
customer = rng.integers(0, 300, 6000)
log = {"Order Date": pd.date_range("2026-01-01", periods=6000, freq="h").strftime("%Y-%m-%d"), "CustomerID": customer}
log |= {"StockCode": [f"SKU-{n}" for n in taste[customer] * 10 + rng.integers(0, 10, 6000)], "Qty": 1}
pd.DataFrame(log).to_csv("orders.csv", index=False)

orders = filters.k_core(pd.read_csv("orders.csv"), 5)
assert len(orders) > 5900  # whoever takes the dates for users, and customers for items, keeps few
dls = CollabDataLoaders.from_csv("orders.csv", feedback="implicit", time_name="Order Date", seed=0)
model = EASE().fit(dls)
first = model.recommend(7, k=1)
assert list(first.columns[:2]) == ["CustomerID", "StockCode"]
assert int(first["StockCode"][0].removeprefix("SKU-")) // 10 == taste[7]
