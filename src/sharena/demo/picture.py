"""The picture that the demo leaves: a plane before and after, and what each way took.

All of it was measured in the same run: the planes are the first and the last state of one
plane of the stack, the bars are the rows of the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Plane = np.ndarray[Any, np.dtype[Any]]

SHOWN = 640  # pixels of a plane's longer side, about
TEXT = 18
GAP = 12
INK, PALE, OURS, OTHERS = "#222222", "#eeeeee", "#7cc79a", "#b8b8b8"


class Chart(NamedTuple):
    """One figure of every way; the first way is ours."""

    title: str
    figures: dict[str, float]
    form: str  # as in format()


def write(file: Path, planes: dict[str, Plane], charts: list[Chart], line: str) -> None:
    """The planes side by side, each under its label, then a line of text, then the charts."""
    from PIL import Image, ImageDraw

    images = _images(list(planes.values()))
    font = _font()
    head, row = TEXT + GAP, TEXT + 6
    rows = 1 + max(len(chart.figures) for chart in charts)
    width = max(len(images) * (images[0].width + GAP) + GAP, 3 * 400)
    top = head + images[0].height + GAP
    canvas = Image.new("RGB", (width, top + head + rows * row + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (label, image) in enumerate(zip(planes, images, strict=True)):
        left = GAP + number * (image.width + GAP)
        draw.text((left, GAP // 2), label, INK, font)
        canvas.paste(image, (left, head))
    draw.text((GAP, top), line, INK, font)
    for number, chart in enumerate(charts):
        column = (width - GAP) // len(charts)
        _draw_chart(draw, chart, (GAP + number * column, top + head), column - GAP, font)
    canvas.save(file)


def _images(planes: list[Plane]) -> list[Any]:
    """All in the grey scale of the first, without smoothing, which would hide noise."""
    from PIL import Image

    low, high = float(planes[0].min()), float(planes[0].max())
    scale = 255 / (high - low) if high > low else 0.0
    height, width = planes[0].shape
    zoom = SHOWN / max(height, width)
    zoom = max(1, round(zoom)) if zoom > 1 else zoom
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    images = []
    for plane in planes:
        pixels = ((plane.astype(np.float64) - low) * scale).clip(0, 255).astype(np.uint8)
        images.append(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
    return images


def _draw_chart(draw: Any, chart: Chart, at: tuple[int, int], width: int, font: Any) -> None:
    left, top = at
    most = max(chart.figures.values()) or 1.0
    draw.text((left, top), chart.title, INK, font)
    for number, (name, figure) in enumerate(chart.figures.items(), 1):
        y = top + number * (TEXT + 6)
        right = left + int(width * max(0.0, figure) / most)
        draw.rectangle((left, y, left + width, y + TEXT + 2), PALE)
        draw.rectangle((left, y, right, y + TEXT + 2), OTHERS if number > 1 else OURS)
        draw.text((left + 4, y), f"{name}  {figure:{chart.form}}", INK, font)


def _font() -> Any:
    """Pillow's own; in a size of our choice where it can."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(TEXT - 3)
    except (TypeError, ImportError):  # before Pillow 10.1, or without FreeType
        return ImageFont.load_default()
