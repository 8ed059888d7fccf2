"""All models of the library pass the contract that contributed ones pass."""

from contract import ModelContract

from collabkit import (
    EASE,
    GMF,
    NCF,
    AveragedHistory,
    CollFilter,
    GRURec,
    ItemKNN,
    NeuMF,
    NextItem,
    Popularity,
    SASRec,
    TwoTower,
)


class TestCollFilter(ModelContract):
    model, options = CollFilter, {"n_factors": 8, "loss_func": "bpr"}


class TestCollFilterOfRatings(ModelContract):
    model, options, rated = CollFilter, {"n_factors": 8}, True


class TestGMF(ModelContract):
    model, options = GMF, {"n_factors": 8}


class TestNCF(ModelContract):
    model, options = NCF, {"n_factors": 8, "layers": [16, 8]}


class TestNeuMF(ModelContract):
    model, options = NeuMF, {"n_factors": 8, "layers": [16, 8]}


class TestTwoTower(ModelContract):
    model, data = TwoTower, {"negatives": "shared", "n_neg": 32}
    options = {"n_factors": 8, "similarity": "cosine", "temperature": 0.1, "loss_func": "softmax"}


class TestPopularity(ModelContract):
    model, closed_form, similar, personal = Popularity, True, False, False


class TestItemKNN(ModelContract):
    model, closed_form = ItemKNN, True


class TestEASE(ModelContract):
    model, closed_form, options = EASE, True, {"l2": 20.0}


class TestNextItem(ModelContract):
    model, closed_form, options = NextItem, True, {"l2": 5.0}
    data = {"history": 20}


class TestGRURec(ModelContract):
    model, options = GRURec, {"n_factors": 16, "dropout": 0.1}
    data = {"history": 20, "bs": 64}
    n_epoch, lr = 20, 2e-2


class TestSASRec(TestGRURec):
    model = SASRec


class TestAveragedHistory(TestGRURec):
    model = AveragedHistory
