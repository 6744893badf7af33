"""The seam that keeps Ray out of the library: what the API needs of the graph, and no more.

Two graphs exist: :class:`facegraph.local.LocalGraph` runs in this process, the Serve one in
``deployments/graph.py`` sends each call to a deployment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from facegraph.types import (
    ByteArray,
    Caption,
    CaptionOptions,
    Consistency,
    Detection,
    FloatArray,
    Recognized,
    SearchResult,
    Segmentation,
    SegmentOptions,
)


@dataclass(frozen=True, slots=True)
class Query:
    """How a gallery is searched: the best ``limit`` subjects per probe, however similar.

    partial: rather an answer without the subjects of a lost shard than none
    exact: also where the collection is searched approximately
    at: an incarnation and one of its versions, to be searched as it was if that can still be told
    """

    limit: int
    consistency: Consistency = "strong"
    partial: bool = False
    exact: bool = False
    at: tuple[str, int] | None = None


class FaceGraph(Protocol):
    """What the face models do; the errors are those of :class:`Graph`."""

    async def detect(
        self,
        image: bytes,
        *,
        max_faces: int,
        crops: bool,
        min_score: float | None = None,
        attributes: bool = False,
    ) -> Detection:
        """Faces of one compressed image, the largest ``max_faces``.

        min_score: instead of the operator's
        crops, attributes: only where asked for
        """
        ...

    async def embed(self, crops: ByteArray) -> FloatArray:
        """(n, 112, 112, 3) uint8 RGB → (n, d) float32, L2-normalised; n may be 0."""
        ...


class Graph(FaceGraph, Protocol):
    """What the models and the index do.

    Every method raises only ``FacegraphError``s: ``InvalidImage``, ``ImageTooLarge`` (all that
    take an image), ``InvalidRequest`` (caption: a prompt that leaves no room; segment,
    load_segmenter: an unknown model), ``Overloaded``, ``TimedOut``, ``ModelUnavailable`` (all),
    ``CollectionNotFound``, ``ContractMismatch``, ``StoreUnavailable``, ``GalleryBehind``,
    ``GalleryTooLarge``, ``ShardUnavailable`` (match).
    """

    async def match(
        self, collection_id: str, contract_id: str, probes: FloatArray, query: Query
    ) -> SearchResult:
        """Subjects for each row of ``probes`` (n, d) float32, L2-normalised."""
        ...

    async def galleries(self, collection_id: str) -> Sequence[Mapping[str, Any]]:
        """How each matcher that has the collection in memory searches it now.

        As :meth:`facegraph.matcher.Matcher.describe_gallery`, with the index of its ``shard``, in
        the order of the shards. It loads nothing. Who does not answer soon is left out: this
        raises nothing for want of a matcher.
        """
        ...

    async def caption(self, image: bytes, options: CaptionOptions) -> Caption | None:
        """One sentence about one compressed image; None where the captioner is `inventory`.

        That sentence is made of a segmentation, which the caller may want anyway.
        """
        ...

    async def segment(
        self, image: bytes, options: SegmentOptions, model: str | None = None
    ) -> Segmentation:
        """Instance masks of one compressed image, by ``model`` or by the configured one."""
        ...

    async def recognize(
        self, recognizer_id: str, probes: FloatArray, threshold: float, margin: float
    ) -> Sequence[Recognized]:
        """Whom that recognizer takes each row of ``probes`` (n, d) float32, L2-normalised, for.

        threshold: raw cosine from which on a probe is near a training embedding
        margin: whoever is nearer by more puts the most probable label into doubt
        RecognizerNotFound where the store has no model of that id.
        """
        ...

    async def forget_recognizer(self, recognizer_id: str) -> None:
        """Every replica drops it from memory; who cannot be reached now drops it when it is old.

        It raises nothing for want of a replica.
        """
        ...

    async def load_segmenter(self, model: str) -> None:
        """Loads ``model`` in every replica; ModelUnavailable, InvalidRequest where one cannot."""
        ...

    async def describe(self) -> dict[str, Any]:
        """Packs, digests, licences, providers really in use, replica by replica."""
        ...
