"""One benchmark with its options, or all of the first six: an hour (``make bench``).

python -m benchmarks [serve | vision | gallery | engines | decoding | profile | captions |
    recognizers | soak]
python -m benchmarks NAME --help
"""

from __future__ import annotations

import runpy
import sys

NAMES = ("serve", "vision", "gallery", "engines", "decoding", "profile")
OTHERS = ("captions", "recognizers", "soak")
"""Only when they are named."""


def main() -> None:
    names = sys.argv[1:2]
    if names and names[0] in {"-h", "--help"}:
        print(__doc__)
        return
    if names and names[0] not in (*NAMES, *OTHERS):
        raise SystemExit(f"{names[0]!r} is none of {', '.join((*NAMES, *OTHERS))}")
    del sys.argv[1:2]
    for name in names or NAMES:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
