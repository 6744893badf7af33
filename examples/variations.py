"""Makes a folder of five pictures of each person out of one: mirrored, cut, darker, smaller.

python examples/variations.py FOLDER PICTURE...
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps


def variations(picture: Image.Image) -> Iterator[Image.Image]:
    """The picture, and four others of the same person."""
    width, height = picture.size
    yield picture
    yield ImageOps.mirror(picture)
    yield picture.crop((width // 20, height // 20, width, height))
    yield ImageEnhance.Brightness(picture).enhance(0.7)
    yield picture.resize((width // 2, height // 2)).rotate(6)


if __name__ == "__main__":
    folder, *pictures = (Path(argument) for argument in sys.argv[1:])
    for path in pictures:
        (folder / path.stem).mkdir(parents=True, exist_ok=True)
        for number, made in enumerate(variations(Image.open(path).convert("RGB")), 1):
            made.save(folder / path.stem / f"{number}.jpg", quality=90)
