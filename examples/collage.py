"""Makes another picture of the same people: mirrored, smaller, side by side, as a JPEG.

python examples/collage.py OUTPUT PICTURE...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

HEIGHT = 320
"""Of every part, in pixels."""


def collage(pictures: Sequence[Path]) -> Image.Image:
    """The pictures mirrored, ``HEIGHT`` pixels high, left to right."""
    parts = [ImageOps.mirror(_scaled(Image.open(path).convert("RGB"))) for path in pictures]
    canvas = Image.new("RGB", (sum(part.width for part in parts), HEIGHT), "white")
    left = 0
    for part in parts:
        canvas.paste(part, (left, 0))
        left += part.width
    return canvas


def _scaled(image: Image.Image) -> Image.Image:
    return image.resize((round(image.width * HEIGHT / image.height), HEIGHT))


if __name__ == "__main__":
    output, *pictures = (Path(argument) for argument in sys.argv[1:])
    collage(pictures).save(output, "JPEG", quality=85)
