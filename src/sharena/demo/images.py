"""Where the demo's stack of images comes from, and the picture it leaves behind.

Without an input of the user's own, it is made of the photographs that scikit-image's
wheel contains (no download): microscopy, astronomy, a retina, textures, people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Stack = np.ndarray[Any, np.dtype[Any]]

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
    """One plane for each colour of each photograph in scikit-image, scaled to 0..1."""
    import skimage  # type: ignore[import-not-found, unused-ignore]

    folder = Path(skimage.__file__).parent / "data"
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix in (".jpg", ".png") and file.stem not in DRAWINGS
    ]
    stack: Stack = np.stack(list(_planes(files, (SIDE, SIDE)))).astype(np.float32)
    stack /= 255
    return stack


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


def write_before_after(before: Stack, after: Stack, file: Path) -> None:
    """A picture of one plane's middle, before on the left and after on the right."""
    from PIL import Image

    low, high = float(before.min()), float(before.max())
    scale = 255 / (high - low) if high > low else 0.0
    side = min(*before.shape, 128)
    top, left = ((length - side) // 2 for length in before.shape)
    halves = []
    for plane in (before, after):
        part = plane[top : top + side, left : left + side].astype(np.float64)
        pixels = ((part - low) * scale).clip(0, 255).astype(np.uint8)
        halves.append(np.kron(pixels, np.ones((4, 4), np.uint8)))
    gap = np.full((halves[0].shape[0], 8), 255, np.uint8)
    Image.fromarray(np.hstack([halves[0], gap, halves[1]])).save(file)
