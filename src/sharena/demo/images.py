"""Where the demo's stack of images comes from.

Without an input of the user's own, it is made of the photographs that scikit-image's
wheel contains (no download): microscopy, astronomy, a retina, textures, people.  To these,
which have no noise to speak of, noise is added as bad pixels of a camera make it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Stack = np.ndarray[Any, np.dtype[Any]]

BAD = 0.05  # of the pixels of the built-in stack
SIDE = 1024  # pixels of a built-in plane: 4 MiB in float32, as a small camera's frame
# Drawings and masks among the photographs: filtering them shows nothing.
DRAWINGS = {"chessboard_GRAY", "chessboard_RGB", "color", "horse", "logo", "phantom"}
CONVERTED = {"CMYK", "LA", "P", "PA", "RGBA", "YCbCr"}  # modes that are no numbers to filter
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"}


class InputError(Exception):
    """The user's input cannot be used; the message says why."""


def load(source: Path | None) -> Stack:
    """The stack as (planes, height, width), in private memory."""
    if source is None:
        return photographs()
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    try:
        return _as_planes(_read(source), source)
    except (OSError, ValueError, SyntaxError) as error:  # as their readers raise
        raise InputError(f"{source}: {error}") from error


def _read(source: Path) -> Stack:
    if source.is_dir():
        return _folder(source)
    if source.suffix == ".npy":
        array: Stack = np.load(source, allow_pickle=False)
        return array
    if source.suffix.lower() in (".tif", ".tiff"):
        return _tiff(source)
    raise InputError(f"{source}: neither .npy, .tif nor a folder of images")


def photographs() -> Stack:
    """A plane for each colour of each photograph in scikit-image, from 0 to 1, with noise."""
    import skimage  # type: ignore[import-not-found, unused-ignore]

    folder = Path(skimage.__file__).parent / "data"
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix in (".jpg", ".png") and file.stem not in DRAWINGS
    ]
    stack: Stack = np.stack(list(_planes(files, (SIDE, SIDE)))).astype(np.float32)
    stack /= 255
    add_bad_pixels(stack)
    return stack


def add_bad_pixels(stack: Stack) -> None:
    """Make some pixels of each plane black or white: always the same ones."""
    random = np.random.default_rng(1)
    for plane in stack:
        drawn = random.random(plane.shape, dtype=np.float32)
        plane[drawn < BAD / 2] = 0
        plane[drawn > 1 - BAD / 2] = 1


def _folder(folder: Path) -> Stack:
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in SUFFIXES]
    if not files:
        raise InputError(f"{folder}: no image in it ({', '.join(sorted(SUFFIXES))})")
    return np.stack(list(_planes(files, None)))


def _planes(files: Iterable[Path], size: tuple[int, int] | None) -> Iterator[Stack]:
    """The colour planes of the images, all brought to `size`, by default the first's."""
    from PIL import Image, ImageOps

    for file in files:
        with Image.open(file) as image:
            plain = image.convert("RGB") if image.mode in CONVERTED else image
            size = size or plain.size
            pixels = np.asarray(ImageOps.fit(plain, size))
        if pixels.ndim == 2:
            yield pixels
        else:
            yield from np.moveaxis(pixels, -1, 0)


def _tiff(file: Path) -> Stack:
    import tifffile  # type: ignore[import-not-found, unused-ignore]

    try:
        stack: Stack = tifffile.imread(file)
    except tifffile.TiffFileError as error:  # no ValueError in its older releases
        raise ValueError(error) from error
    return stack


def _as_planes(stack: Stack, source: Path) -> Stack:
    """(planes, height, width) whatever the axes before the last two mean."""
    if stack.ndim < 2 or 0 in stack.shape:
        raise InputError(f"{source}: an image has two axes, not the shape {stack.shape}")
    if stack.dtype.kind not in "iuf":
        raise InputError(f"{source}: pixels of type {stack.dtype} cannot be filtered")
    if stack.ndim > 2 and stack.shape[-1] in (3, 4):  # colours come last: make planes
        stack = np.moveaxis(stack, -1, -3)
    return np.ascontiguousarray(stack.reshape(-1, *stack.shape[-2:]))
