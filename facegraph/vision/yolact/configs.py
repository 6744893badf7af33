"""The three networks whose checkpoints the authors released."""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = 81
"""COCO's 80 and, as class 0, the background."""

PROTOTYPES = 32
FEATURES = 256
"""Channels of every level of the pyramid."""


@dataclass(frozen=True, slots=True)
class YolactConfig:
    """What differs between the networks.

    blocks: bottlenecks in each of the four stages of the ResNet
    size: side of the square input, in pixels
    scales: side of the priors on each of the five levels, in pixels of the input
    """

    name: str
    blocks: tuple[int, int, int, int]
    size: int
    scales: tuple[int, int, int, int, int]

    @property
    def sides(self) -> tuple[int, ...]:
        """Cells along one side of the levels P3 to P7: every stride rounds up."""
        return tuple(-(-self.size // 2**level) for level in range(3, 8))


RESNET_50 = (3, 4, 6, 3)
RESNET_101 = (3, 4, 23, 3)
SCALES = (24, 48, 96, 192, 384)

CONFIGS = {
    config.name: config
    for config in (
        YolactConfig("base", RESNET_101, 550, SCALES),
        # The scales of ``base`` times 700/550, rounded down as the authors did.
        YolactConfig("im700", RESNET_101, 700, (30, 61, 122, 244, 488)),
        YolactConfig("resnet50", RESNET_50, 550, SCALES),
    )
}
