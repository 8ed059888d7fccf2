"""`ModelContract`: what every model can do, or refuses before anything is touched. Subclass it to test a model.

    class TestMine(ModelContract):
        model = Mine
        options = {"n_factors": 8}

The data has a planted structure: users and items belong to one of four groups, and nearly all events are within one.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from collabkit import CollabDataLoaders, HitRate, Popularity, Recommender, collab_learner, compare, load_learner, splits

N_GROUPS, N_USERS, N_ITEMS, N_EVENTS = 4, 120, 60, 10


def planted(rated: bool = False, seed: int = 0) -> pd.DataFrame:
    """Events in time order, nine of ten within the group; with `rated` half of them, rated 5 within and 1 without."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(N_USERS):
        own = np.flatnonzero(np.arange(N_ITEMS) % N_GROUPS == user % N_GROUPS)
        n_own = N_EVENTS if rated else N_EVENTS - 1
        others = np.setdiff1d(np.arange(N_ITEMS), own)
        items = np.concatenate(
            [rng.choice(own, n_own, replace=False), rng.choice(others, 2 * N_EVENTS - n_own if rated else 1)]
        )
        rows += [(f"u{user}", f"i{item:02d}", 5.0 if item in own else 1.0) for item in rng.permutation(items)]
    table = pd.DataFrame(rows, columns=["user", "item", "rating"]).drop_duplicates(["user", "item"])
    table["time"], table["device"] = np.arange(len(table)), np.where(np.arange(len(table)) % 2, "phone", "desktop")
    return table.reset_index(drop=True)


def same(lists: pd.DataFrame, others: pd.DataFrame) -> None:
    """The same lists; the last digits of the scores depend on who is asked beside."""
    columns = [name for name in lists if name != "score"]
    assert lists[columns].reset_index(drop=True).equals(others[columns].reset_index(drop=True))
    assert np.allclose(lists["score"], others["score"], atol=1e-5)


def equal(lists: pd.DataFrame, others: pd.DataFrame) -> None:
    """The same to the last digit; on a GPU, where sums are taken in any order, items of nearly one score may swap."""
    if torch.cuda.is_available():
        assert np.allclose(lists["score"], others["score"], atol=1e-4)
    else:
        assert lists.equals(others)


class ModelContract:
    """The tests. A subclass names the model and what it is trained with.

    Attributes:
        model: the class.
        options: of `collab_learner`, or of the constructor of a closed-form model.
        data: further arguments of `CollabDataLoaders.from_df`.
        rated: whether it learns from ratings rather than from events.
        closed_form: whether it is fitted by `fit(dls)` alone.
        n_epoch, lr: of the training.
        folds_in: whether users can be folded in; and `histories`, whether `recommend(history=)` answers.
        similar: whether it knows similar items.
        personal: whether it can find the planted structure.
    """

    model = None
    options: dict = {}
    data: dict = {}
    rated, closed_form, folds_in, histories, similar, personal = False, False, True, True, True, True
    n_epoch, lr = 20, 2e-2

    def dataloaders(self, table=None):
        table = planted(self.rated) if table is None else table
        feedback = {"rating_name": "rating"} if self.rated else {"feedback": "implicit"}
        options = {"user_name": "user", "item_name": "item", "time_name": "time", "seed": 0, "bs": 64}
        options = {**options, **feedback, "splitter": splits.leave_last_out(), **self.data}
        return CollabDataLoaders.from_df(table, **options)

    def fitted(self, dls, **kwargs):
        """A learner, or a closed-form model, fitted to the dataloaders."""
        if self.closed_form:
            return self.model(**self.options).fit(dls)
        y_range = {"y_range": (0.5, 5.5)} if self.rated else {}
        learn = collab_learner(dls, model=self.model, seed=1, **y_range, **self.options, **kwargs)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(self.n_epoch, self.lr)
        return learn

    @pytest.fixture(scope="class")
    def dls(self):
        return self.dataloaders()

    @pytest.fixture(scope="class")
    def learn(self, dls):
        return self.fitted(dls)

    @pytest.fixture
    def copy(self, learn, tmp_path):
        """A recommender of its own, to be changed."""
        learn.recommender.save(tmp_path / "copy")
        return Recommender.load(tmp_path / "copy", models=[self.model])

    def test_it_learns_the_planted_structure(self, learn):
        table = learn.evaluate()
        if self.rated:
            assert table.loc["RMSE", "value"] < 0.7 * table.loc["RMSE", "user+item bias"]
        elif self.personal:
            chance = 10 / (N_ITEMS - N_EVENTS + 1)
            assert table.loc["HitRate@10", "value"] > max(2 * chance, 1.2 * table.loc["HitRate@10", "popularity"])
        else:
            assert 0 < table.loc["HitRate@10", "value"] <= 1

    def test_one_seed_gives_one_result(self, dls, learn):
        other = self.fitted(dls)
        equal(other.recommend(k=5), learn.recommend(k=5))

    def test_metrics_in_fit_are_those_of_evaluate(self, dls):
        if self.closed_form:
            pytest.skip("a closed-form model has no epochs")
        learn = self.fitted(dls, metrics=[HitRate(10)])
        shown = learn.recorder.values[-1][-1]
        assert 0 <= shown <= 1
        assert abs(shown - learn.evaluate(metrics=["HitRate"]).loc["HitRate@10", "value"]) < 0.1  # rows settle after it

    def test_it_is_compared(self, learn):
        table = compare([learn, Popularity()], metrics=["NDCG"], names=["mine", "popularity"])
        assert table["value"].between(0, 1).all() and len(table) == 2
        assert table.loc[("NDCG@10", "mine"), "value"] == learn.evaluate(metrics=["NDCG"]).iloc[0]["value"]

    def test_it_recommends_to_users(self, dls, learn):
        lists = learn.recommend(k=5)
        seen = pd.concat([dls.train.items, dls.valid.items])[["user", "item"]]
        assert len(lists) == 5 * N_USERS and (lists.groupby("user")["rank"].max() == 5).all()
        assert len(lists.merge(seen)) == 0
        one = learn.recommend("u3", k=5)  # a batch of one
        of_all = lists[lists["user"] == "u3"].reset_index(drop=True)
        assert one["item"].tolist() == of_all["item"].tolist()
        assert np.allclose(one["score"], of_all["score"], atol=1e-5)
        scored = learn.recommender.predict("u3", one["item"])
        assert np.allclose(scored, one["score"], atol=1e-4)  # one model, whether it ranks or predicts

    def test_unknown_ids_are_refused_or_answered_by_default(self, learn):
        with pytest.raises(KeyError, match="nobody"):
            learn.recommend("nobody")
        assert len(learn.recommend("nobody", k=3, unknown="default")) == 3
        assert len(learn.recommender.default_list(k=3)) == 3
        with pytest.raises(KeyError, match="nothing"):
            learn.recommend("u1", items=["nothing"])

    def test_a_history_is_answered_or_refused(self, learn):
        own = [f"i{item:02d}" for item in range(1, 24, N_GROUPS)]
        history = dict.fromkeys(own, 5.0) if self.rated else own
        if not self.histories:
            with pytest.raises(TypeError, match="history"):
                learn.recommend(history=history, k=5)
            return
        found = learn.recommend(history=history, k=5)
        assert len(found) == 5 and not set(found["item"]) & set(own)
        if self.personal:
            group = found["item"].str[1:].astype(int) % N_GROUPS
            assert (group == 1).sum() >= 3
        with pytest.raises(KeyError, match="nothing"):
            learn.recommend(history={"nothing": 5.0} if self.rated else ["nothing"])

    def test_recent_events_count_as_history_at_once(self, learn):
        dls = learn.data if self.closed_form else learn.dls.data
        known = pd.concat([dls.train.to_df(), dls.valid.to_df()])
        known = known[known["user"] == "u3"].sort_values("time")
        unseen = [name for name in (f"i{j:02d}" for j in range(N_ITEMS)) if name not in set(known["item"])]
        recent = pd.DataFrame({"user": "u3", "item": unseen[5:2:-1], "rating": 5.0, "time": [10**6, 10**6, 10**6 + 1]})
        if not self.histories:
            with pytest.raises(TypeError, match="history"):
                learn.recommend("u3", k=5, recent=recent)
            return
        usual = learn.recommend(["u4", "u3"], k=5)
        found = learn.recommend(["u4", "u3"], k=5, recent=recent)
        same(found[found["user"] == "u4"], usual[usual["user"] == "u4"])
        found = found[found["user"] == "u3"]
        assert not set(found["item"]) & (set(recent["item"]) | set(known["item"]))
        needs = learn.recommender.model.needs
        if not {"users", "history"} <= {*needs} and "time" not in needs:  # else more is known of the user than that
            alike = learn.recommend(history=pd.concat([known, recent])[list(recent)], k=5)
            same(found.drop(columns="user"), alike.drop(columns="user"))
        assert learn.recommend(["u4", "u3"], k=5).equals(usual)  # nothing is kept

    def test_what_follows_an_item_is_the_list_of_a_history_of_it(self, learn):
        if not learn.recommender.model.ordered:
            with pytest.raises(TypeError, match="ask similar_items"):
                learn.next_items("i03")
            return
        found = learn.next_items("i03", k=5)
        assert found.equals(learn.recommend(history=["i03"], k=5)) and "i03" not in set(found["item"])
        both = learn.next_items(["i07", "i03"], k=5)
        assert list(both) == ["after_item", "item", "rank", "score"]
        same(both[both["after_item"] == "i03"].drop(columns="after_item"), found)

    def test_shares_of_past_items_sum_to_the_score(self, learn):
        if not self.histories:
            with pytest.raises(TypeError, match="computed from the training data"):
                learn.recommend("u3", k=1, why=True)
            return
        listed = learn.recommend(["u3", "u4"], k=2, why=True)
        for user, item, score, because in listed[["user", "item", "score", "because"]].itertuples(index=False):
            table = learn.why(user, item)
            assert abs(table["share"].sum() - score) < 1e-4
            assert because in set(table["item"])

    def test_similar_items(self, learn):
        if not self.similar:
            with pytest.raises(TypeError, match="similar"):
                learn.similar_items("i03")
            return
        found = learn.similar_items("i03", k=5)
        assert len(found) == 5 and "i03" not in set(found["item"])
        group = found["item"].str[1:].astype(int) % N_GROUPS
        assert (group == 3).sum() >= 3

    def test_an_artefact_gives_the_same_lists(self, learn, tmp_path):
        lists = learn.recommend(k=5)
        folder = learn.export(tmp_path / "artefact")
        loaded = Recommender.load(folder, models=[self.model])
        equal(loaded.recommend(k=5), lists)
        if not self.closed_form:
            again = load_learner(folder, models=[self.model])
            equal(again.recommend(k=5), lists)
            with again.no_bar(), again.no_logging():
                again.fit(1, 1e-3)  # trains on

    def test_answers_do_not_depend_on_the_number_of_torchs_threads(self, learn, tmp_path):
        """But for the last digits of a score, where a sum over more numbers is taken in another order."""
        folder, before, answers = learn.export(tmp_path / "artefact"), torch.get_num_threads(), []
        try:
            for n_threads in (1, 2):
                torch.set_num_threads(n_threads)
                fresh = Recommender.load(folder, models=[self.model])
                tables = [fresh.recommend(k=5), fresh.evaluate(n_boot=10)]
                tables += [fresh.similar_items("i03", 5)] if self.similar else []
                answers.append(tables)
        finally:
            torch.set_num_threads(before)
        for one, two in zip(*answers, strict=True):
            exact = [name for name in one if one[name].dtype.kind != "f"]
            assert one[exact].equals(two[exact])
            others = one.columns.difference(exact)
            np.testing.assert_allclose(one[others].to_numpy(), two[others].to_numpy(), rtol=1e-5, equal_nan=True)

    def test_users_are_folded_in_or_refused(self, copy):
        rows = pd.DataFrame({"user": ["new"] * 5, "item": [f"i{j:02d}" for j in range(2, 22, N_GROUPS)], "rating": 5.0})
        before, weights = copy.data, {name: value.clone() for name, value in copy.model.state_dict().items()}
        if not self.folds_in:
            with pytest.raises(TypeError, match="computed"):
                copy.fold_in(rows)
            assert copy.data is before
            assert all(torch.equal(value, weights[name]) for name, value in copy.model.state_dict().items())
            return
        lists = copy.recommend(k=5)
        copy.fold_in(rows)
        found = copy.recommend("new", k=5)
        assert len(found) == 5 and not set(found["item"]) & set(rows["item"])
        again = copy.recommend(before.users.ids, k=5)
        assert again["item"].tolist() == lists["item"].tolist()  # the others' lists stay

    def test_new_items_without_features_are_refused(self, copy):
        before = copy.data
        with pytest.raises(TypeError, match="no item features"):
            copy.add_items(pd.DataFrame({"item": ["new"], "colour": ["red"]}))
        assert copy.data is before and copy.recommend("u1", k=3) is not None
