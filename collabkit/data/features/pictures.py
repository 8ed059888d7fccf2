"""`Picture`: posters, photographs and drawings from files, bytes or arrays, decoded once into small pictures."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from collabkit.data.checks import whole_within
from collabkit.data.features.content import Block, Content, is_missing, says_nothing
from collabkit.data.features.encoders import PictureCNN, TrainedEncoder
from collabkit.data.features.fields import Field
from collabkit.data.features.vectors import digest
from collabkit.data.runs import Runs

__all__ = ["Picture"]

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte of colours
SMALLEST, LARGEST = 8, 1024
_BLOCK = 256


class Picture(Content):
    """The kind `'image'`: a picture for each id.

    The column holds paths, bytes of files, Pillow images, or arrays `(h, w)`, `(h, w, 1, 3 or 4)` or `(3, h, w)` with
    integers up to 255 or numbers from 0 to 1. Grey and transparent pictures (on white) are converted to three colours,
    and all are resized to one size. Files that are missing, damaged or larger than `max_pixels` count as missing
    (counted) and are not decoded. Decoding happens once, in several threads, because Pillow releases Python's lock.

    Args:
        encoder: `'cnn'`, a small convolutional network that is trained with the model. Or an external encoder, whose
            vectors are computed once and then used as dense numbers: a callable (e.g. a torchvision or timm module)
            from `(m, 3, size, size)` float32 from 0 to 1, not normalised, to `(m, d)` numbers, or a `TrainedEncoder`
            from `Model.encoder`.
        train: `'end_to_end'`, the default for `'cnn'`, or `'frozen'`, for external ones; a `TrainedEncoder` can be
            either.
        size: height and width of the encoder's input in pixels; default 32, or that of the trained encoder.
        width: output size of `'cnn'`; default 32.
        folder: base folder of relative paths; default the working folder.
        max_pixels: pictures with more pixels are not decoded.
        cache: folder that stores the vectors of a frozen encoder between runs, for this encoder only.
        n_workers: number of threads; default one per processor, at most 8.

    Raises:
        TypeError, ValueError: options contradict each other.

    Example:
        >>> from collabkit.data.features import Features
        >>> from collabkit.data.vocab import Vocab
        >>> grey, red = np.full((40, 30), 128, np.uint8), np.full((40, 30, 3), [255, 0, 0], np.uint8)
        >>> films = pd.DataFrame({'film': [1, 2, 3], 'poster': [grey, red, None]})
        >>> Features.from_df(films, Vocab([1, 2, 3], 'film'), {'poster': Picture(size=16)})
        Features of 3 'film' ids
          poster: image, 32 numbers, cnn, trained end to end
          note: 'poster' is missing for 1 of 3 ids, which get zeros
    """

    kind, built_in = "image", ("cnn",)

    def __init__(
        self, encoder: str | Callable = "cnn", *, train: str | None = None, size: int | None = None,
        width: int | None = None, folder: str | Path | None = None, max_pixels: int = MAX_PIXELS,
        cache: str | Path | None = None, n_workers: int | None = None,
    ):  # fmt: skip
        if isinstance(encoder, str) and encoder not in self.built_in:
            raise ValueError(f"the encoder of an image must be 'cnn' or a callable, got {encoder!r}")
        if isinstance(encoder, TrainedEncoder) and encoder.field.kind == self.kind:
            own = encoder.field.options["size"]
            if size not in (None, own):
                raise ValueError(f"size={size!r}, but the trained encoder takes pictures of {own} pixels")
            size = own
        self.size = whole_within("size", 32 if size is None else size, SMALLEST, LARGEST)
        self.max_pixels = whole_within("max_pixels", max_pixels, 1, 2**40)
        self.n_workers = whole_within(
            "n_workers", min(8, os.cpu_count() or 1) if n_workers is None else n_workers, 1, 64
        )
        self.folder = None if folder is None else Path(folder).expanduser()
        super().__init__(encoder, train, width, cache)

    def ask(self, contents: Tensor):
        if isinstance(self.own_encoder, TrainedEncoder):
            return self.own_encoder([*contents.numpy()])
        module = self.own_encoder if isinstance(self.own_encoder, nn.Module) else None
        at = None if module is None else next(module.parameters(), None)
        return self.own_encoder((contents.float() / 255).to("cpu" if at is None else at.device))

    def blocks(self, name: str, values: pd.Series, notes: dict) -> Iterator[Block]:
        for pixels, there in self._decoded(name, values, self.size, notes):
            yield Block(pixels, [digest(picture.numpy().tobytes()) for picture in pixels], there)

    def fit(self, name: str, values: pd.Series, columns=()) -> Field:
        notes: dict[str, list] = {}
        n_given, seen = sum(not is_missing(value) for value in values), set()
        for pixels, there in self._decoded(name, values, self.size, notes):  # until there are two
            seen |= {digest(picture.numpy().tobytes()) for picture in pixels} | ({b""} if not there.all() else set())
            if len(seen) > 1 and seen - {b""}:
                return super().fit(name, values, columns)
        if n_given and not seen - {b""}:
            why = "; ".join(f"{len(who):,} {what}" for what, who in notes.items())
            raise ValueError(f"none of {n_given:,} pictures of {name!r} can be read: {why}")
        says_nothing(name, n_given, len(seen))
        raise AssertionError("unreachable")

    def learned_options(self, name: str, values: pd.Series) -> dict:
        return {"encoder": "cnn", "size": self.size, "width": self.width or 32}

    def contents(self, field: Field, values: pd.Series, notes: dict) -> Runs:
        size = field.options["size"]
        found = [*self._decoded(field.name, values, size, notes)]
        there = np.concatenate([np.zeros(0, dtype=bool), *(part for _, part in found)])
        pixels = torch.cat([torch.zeros(0, 3, size, size, dtype=torch.uint8), *(part for part, _ in found)])
        return Runs(torch.from_numpy(np.append(0, np.cumsum(there))).long(), pixels)

    def parts(self, field: Field, content, grid: int) -> tuple[pd.DataFrame, list[tuple[slice, slice]]]:
        size = field.options["size"]
        edges = np.linspace(0, size, whole_within("grid", grid, 1, size) + 1).round().astype(int).tolist()
        spans = list(pairwise(edges))
        boxes = [(top, left, bottom, right) for top, bottom in spans for left, right in spans]
        places = [(slice(top, bottom), slice(left, right)) for top, left, bottom, right in boxes]
        return pd.DataFrame(boxes, columns=["top", "left", "bottom", "right"]), places

    def module(self, field: Field) -> PictureCNN:
        return PictureCNN(field.width)

    def fits(self, field: Field, contents: Runs) -> bool:
        size = field.options["size"]
        return contents.values.dtype == torch.uint8 and contents.values.shape[1:] == (3, size, size)

    def _decoded(self, name: str, values: pd.Series, size: int, notes: dict) -> Iterator[tuple[Tensor, np.ndarray]]:
        """The pictures `(m, 3, size, size)` of one block of values at a time, and which values have one."""
        _check_types(name, values)
        one = partial(_pixels, size=size, folder=self.folder, max_pixels=self.max_pixels)
        with ThreadPoolExecutor(self.n_workers) as pool:
            for first in range(0, len(values), _BLOCK):
                block = values.iloc[first : first + _BLOCK]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Pillow warns of large pictures, which are refused here
                    found = [*pool.map(one, block)]
                for label, picture in zip(block.index, found, strict=True):
                    if isinstance(picture, str):
                        notes.setdefault(f"picture(s) of {name!r} {picture}", []).append(label)
                pictures = [picture for picture in found if isinstance(picture, np.ndarray)]
                stacked = np.stack(pictures) if pictures else np.zeros((0, 3, size, size), np.uint8)
                yield torch.from_numpy(stacked), np.array([isinstance(p, np.ndarray) for p in found], dtype=bool)

    def __reduce__(self):
        return Picture, ()  # without the encoder, as in an artefact


def _check_types(name: str, values: pd.Series) -> None:
    """Raise `TypeError` or `ValueError` for a value that cannot be a picture."""
    for label, value in values.items():
        if is_missing(value) or isinstance(value, (Path, bytes, bytearray, memoryview)) or hasattr(value, "convert"):
            continue
        if isinstance(value, str):
            if value.startswith(("http://", "https://")):
                raise ValueError(f"feature {name!r} holds {value!r}: pictures are read from files; download them first")
        elif not isinstance(value, (np.ndarray, Tensor)):
            raise TypeError(f"feature {name!r} takes paths, bytes, Pillow images or arrays, but holds {value!r}")
        elif _colours_last(value) is None or _kind_of(value) not in "bif":
            kind = f"{value.dtype} of shape {tuple(value.shape)}"
            what = f"feature {name!r} has an array for {label!r} that is not a picture: {kind}"
            raise ValueError(
                f"{what}; use (h, w), (h, w, 3), (h, w, 4) or (3, h, w) of whole numbers to 255, or from 0 to 1"
            )


def _colours_last(value: np.ndarray | Tensor) -> bool | None:
    """Whether the colours are on the last axis of an array; None if its shape is not that of a picture."""
    shape = tuple(value.shape)
    if 0 in shape or len(shape) not in (2, 3):
        return None
    if len(shape) == 2 or shape[2] in (1, 3, 4):
        return True
    return False if shape[0] in (1, 3, 4) else None


def _kind_of(value: np.ndarray | Tensor) -> str:
    """The kind of an array: `'b'` for booleans, `'i'` for whole numbers, `'f'` for others; other letters otherwise."""
    if isinstance(value, Tensor):
        value = torch.empty(0, dtype=torch.float32 if value.dtype == torch.bfloat16 else value.dtype).numpy()
    return value.dtype.kind.replace("u", "i")


def _pixels(value, size: int, folder: Path | None, max_pixels: int) -> np.ndarray | str | None:
    """A picture as `(3, size, size)` uint8; or the problem with it, in words; or None if it is missing."""
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return _small(value, size, folder, max_pixels)
    except FileNotFoundError:
        return "are missing files"
    except _Refused as error:
        return f"are refused: {error}"
    except Exception as error:  # Pillow raises nearly anything for damaged files
        if type(error).__name__ == "DecompressionBombError":
            return f"are refused: more than {max_pixels:,} pixels"
        return f"cannot be read ({type(error).__name__})"


class _Refused(ValueError):
    """A picture that must not be decoded, or has no colours."""


def _small(value, size: int, folder: Path | None, max_pixels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    if isinstance(value, (np.ndarray, Tensor)):
        value = Image.fromarray(_bytes_of(value, max_pixels))
    elif not hasattr(value, "convert"):
        raw = isinstance(value, (bytes, bytearray, memoryview))
        value = Image.open(io.BytesIO(value) if raw else Path(folder or ".") / value)
    if value.width * value.height > max_pixels:
        raise _Refused(f"more than {max_pixels:,} pixels")
    if value.format == "JPEG":
        value.draft("RGB", (size, size))  # decoded at an eighth of its size, where that is enough
    picture = _in_colours(ImageOps.exif_transpose(value))
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)).transpose(2, 0, 1)


def _in_colours(picture):
    """A Pillow image of any mode in red, green and blue, on white."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):  # sixteen bits, or any numbers
        numbers = np.nan_to_num(np.asarray(picture, dtype=np.float32))
        most = 65535 if picture.mode.startswith("I;16") or numbers.max() > 255 else 255
        return Image.fromarray((numbers.clip(0, most) * (255 / most)).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _bytes_of(value: np.ndarray | Tensor, max_pixels: int) -> np.ndarray:
    """An array as Pillow takes it, `(h, w)` or `(h, w, 3 or 4)` uint8."""
    kind, last = _kind_of(value), _colours_last(value)
    array = value.detach().cpu() if isinstance(value, Tensor) else value
    array = array.numpy() if isinstance(array, Tensor) and kind != "f" else np.asarray(array)
    array = array if last else array.transpose(1, 2, 0)
    if array.shape[0] * array.shape[1] > max_pixels:
        raise _Refused(f"more than {max_pixels:,} pixels")
    most = 255 if kind == "i" else 1
    if not bool(((array >= 0) & (array <= most)).all()):  # NaN too
        raise _Refused(f"numbers outside 0 to {most}")
    array = array.astype(np.uint8) if kind == "i" else np.round(np.asarray(array, np.float64) * 255).astype(np.uint8)
    return np.ascontiguousarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)
