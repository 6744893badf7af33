"""Asking for a recognizer: what can be told at once is told at once, the rest becomes a job."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, BinaryIO, Self

from pydantic import Field, model_validator

from facegraph.api.archives import pieces
from facegraph.api.endpoint import Params
from facegraph.api.fields import LongText, Text, Threshold
from facegraph.api.training_forms import SentPicture
from facegraph.bulk.opening import open_upload
from facegraph.bulk.patterns import PATTERN
from facegraph.config import IngressTuning
from facegraph.errors import ConfigError, ContractMismatch, InvalidRequest, InvalidTrainingSet
from facegraph.outside import require_reachable
from facegraph.recognizers.callbacks import check_secret, new_secret
from facegraph.recognizers.options import GENERATIONS, POPULATION, SEED, BuildOptions
from facegraph.recognizers.pictures import LabelledPicture, check_label, label_of, write_pictures
from facegraph.service import FacePolicy, Service
from facegraph.store import Recognizer

DEFAULT = BuildOptions(contract_id="", threshold=0.0)
"""The defaults."""

OF_SEARCHES = ("generations", "population", "time_budget_s")
MAX_LISTED = 20


def _within(bounds: tuple[int, int], description: str) -> Any:
    least, most = bounds
    return Field(ge=least, le=most, description=description)


class BuildParams(Params):
    """What is asked of a build, wherever its pictures come from."""

    optimize: Annotated[
        bool, Field(description="Search for the network's shape; else the default one is trained.")
    ] = DEFAULT.optimize
    generations: Annotated[int, _within(GENERATIONS, "Of the search, at most.")] = (
        DEFAULT.generations
    )
    population: Annotated[int, _within(POPULATION, "Shapes of a generation.")] = DEFAULT.population
    seed: Annotated[int, _within(SEED, "Two builds with one seed agree.")] = DEFAULT.seed
    time_budget_s: Annotated[
        float | None,
        Field(
            gt=0,
            description="Of the search, default 300; what it found until then counts. It begins "
            "after the first two shapes.",
        ),
    ] = None
    threshold: Threshold | None = None
    name: Text | None = None
    min_pictures: Annotated[
        int, Field(ge=2, le=1000, description="A label with fewer pictures is left out.")
    ] = DEFAULT.min_pictures
    callback_url: Annotated[
        LongText | None,
        Field(description="Told by a signed POST when it is ready, or failed (Standard Webhooks)."),
    ] = None
    callback_secret: Annotated[
        LongText | None,
        Field(description="Signs the POST: `whsec_` and base64; default: a new one."),
    ] = None

    @model_validator(mode="after")
    def _what_is_said_counts(self) -> Self:
        idle = [name for name in OF_SEARCHES if name in self.model_fields_set]
        if idle and not self.optimize:
            raise ValueError(f"{', '.join(idle)}: for optimize=true")
        if self.callback_secret is not None and self.callback_url is None:
            raise ValueError("callback_secret is for a callback_url")
        return self


@dataclass(frozen=True, slots=True)
class Pictures:
    """labels: one for each picture; None: each picture's file name tells"""

    pictures: Sequence[SentPicture]
    labels: Sequence[str] | None = None
    face: FacePolicy = DEFAULT.face
    min_quality: float | None = None


@dataclass(frozen=True, slots=True)
class Archive:
    """One file of very many pictures, as bulk enrolment takes it."""

    file: BinaryIO
    pattern: str = PATTERN
    face: FacePolicy = DEFAULT.face
    min_quality: float | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """Those of a collection; a subject's id is its label."""

    collection_id: str


Source = Pictures | Archive | Samples


@dataclass(frozen=True, slots=True)
class Accepted:
    """callback_secret: told once, where a callback was asked for"""

    recognizer: Recognizer
    callback_secret: str | None


async def accept(service: Service, asked: BuildParams, source: Source) -> Accepted:
    """Queues the build.

    Raises InvalidRequest, InvalidTrainingSet, CollectionNotFound, ContractMismatch, Overloaded,
    TooManyRecognizers; nothing is made then.
    """
    options = _options(service, asked)
    secret = await _callback_secret(service, asked)
    if isinstance(source, Samples):
        options = await _of_collection(service, asked, source, options)
        return await _create(service, asked, options, secret)
    options = replace(options, face=source.face, min_quality=source.min_quality)
    if isinstance(source, Archive):
        options = replace(options, pattern=source.pattern)
        await asyncio.to_thread(_check_archive, source, options)
        return await _create(service, asked, options, secret, source.file)
    options = replace(options, labelled=True)
    labels = _labels(source)
    _require_classes(labels, asked.min_pictures, service.tuning)
    with await asyncio.to_thread(write_pictures, _labelled(source, labels)) as file:
        return await _create(service, asked, options, secret, file)


def _options(service: Service, asked: BuildParams) -> BuildOptions:
    """As asked for, within the limits in force; InvalidRequest."""
    tuning = service.tuning
    budget_s = asked.time_budget_s
    if budget_s is not None and budget_s > tuning.max_search_s:
        raise InvalidRequest(f"time_budget_s may be at most {tuning.max_search_s:g}")
    return BuildOptions(
        contract_id=service.contract.id,
        threshold=service.threshold(asked.threshold, None),
        optimize=asked.optimize,
        generations=asked.generations,
        population=asked.population,
        seed=asked.seed,
        time_budget_s=budget_s or min(DEFAULT.time_budget_s, tuning.max_search_s),
        min_pictures=asked.min_pictures,
        max_pictures=tuning.max_training_pictures,
        max_classes=tuning.max_training_classes,
        max_image_bytes=tuning.max_image_bytes,
    )


async def _callback_secret(service: Service, asked: BuildParams) -> str | None:
    """The client's secret, or a new one; None where nobody is to be called. InvalidRequest."""
    if asked.callback_url is None:
        return None
    if asked.callback_secret is not None:
        check_secret(asked.callback_secret)
    private = service.settings.private_callbacks
    await require_reachable(asked.callback_url, private, "callback_url")
    return asked.callback_secret or new_secret()


async def _of_collection(
    service: Service, asked: BuildParams, source: Samples, options: BuildOptions
) -> BuildOptions:
    tuning = service.tuning
    held = await service.store.get_collection(source.collection_id)
    if held.contract_id != service.contract.id:
        raise ContractMismatch(
            f"the collection {held.id!r} is bound to the contract {held.contract_id}, and "
            f"{service.contract.id} is active"
        )
    counts = {"subjects": held.subject_count, "samples": held.sample_count}
    if held.subject_count < 2:
        raise InvalidTrainingSet(
            f"a recognizer tells at least two people apart, and the collection {held.id!r} has "
            f"{held.subject_count}",
            (counts,),
        )
    if held.subject_count > tuning.max_training_classes:
        raise InvalidTrainingSet(f"at most {tuning.max_training_classes} people", (counts,))
    if held.sample_count > tuning.max_training_samples:
        raise InvalidTrainingSet(f"at most {tuning.max_training_samples} samples", (counts,))
    return replace(
        options,
        collection_id=held.id,
        threshold=service.threshold(asked.threshold, held.threshold),
        max_pictures=tuning.max_training_samples,
    )


def _check_archive(source: Archive, options: BuildOptions) -> None:
    """Looks at how it begins, and how much it is: better now than in the job.

    InvalidRequest, InvalidTrainingSet.
    """
    try:
        opened = open_upload(source.file, pattern=source.pattern, max_bytes=options.max_image_bytes)
        opened.check()
        count = opened.count()
    except ConfigError as error:
        raise InvalidRequest(str(error)) from None
    if not 2 <= count <= options.max_pictures:
        said = f"{count} pictures: at least 2 and at most {options.max_pictures} are taken"
        raise InvalidTrainingSet(said, ({"pictures": count},))


def _labels(source: Pictures) -> list[str]:
    """One for each picture; InvalidTrainingSet lists those that cannot be."""
    pictures = source.pictures
    given: Sequence[str | None]
    if source.labels is None:
        given = [label_of(picture.name or "") for picture in pictures]
    else:
        given = source.labels
    if len(given) != len(pictures):
        raise InvalidTrainingSet(
            f"{len(given)} labels for {len(pictures)} pictures",
            ({"labels": len(given), "pictures": len(pictures)},),
        )
    labels, errors = [], []
    for index, label in enumerate(given):
        try:
            labels.append(_checked(label))
        except InvalidRequest as error:
            errors.append({"index": index, "detail": error.detail})
    if errors:
        raise InvalidTrainingSet(
            f"{len(errors)} of {len(given)} labels cannot be taken: {errors[0]['detail']}",
            tuple(errors[:MAX_LISTED]),
        )
    return labels


def _checked(label: str | None) -> str:
    if label is None:
        raise InvalidRequest(
            "no label: neither `labels` nor the file's name says who it is, by a folder "
            "(ada/1.jpg) or a number (ada_1.jpg)"
        )
    return check_label(label)


def _require_classes(labels: Sequence[str], min_pictures: int, tuning: IngressTuning) -> None:
    """InvalidTrainingSet where no two people have enough pictures, or there are too many people."""
    counts = Counter(labels)
    told = tuple({"label": label, "pictures": n} for label, n in counts.most_common(MAX_LISTED))
    if len(counts) > tuning.max_training_classes:
        raise InvalidTrainingSet(
            f"{len(counts)} people, {tuning.max_training_classes} are taken", told
        )
    enough = sum(count >= min_pictures for count in counts.values())
    if enough < 2:
        raise InvalidTrainingSet(
            f"a recognizer tells at least two people apart, with {min_pictures} pictures of each; "
            f"of the {len(counts)} labels here {enough} {'has' if enough == 1 else 'have'} as many",
            told,
        )


def _labelled(source: Pictures, labels: Sequence[str]) -> Iterator[LabelledPicture]:
    """One at a time: together they may be larger than memory."""
    for index, (picture, label) in enumerate(zip(source.pictures, labels, strict=True)):
        yield LabelledPicture(label, picture.name or f"images[{index}]", picture.read())


async def _create(
    service: Service,
    asked: BuildParams,
    options: BuildOptions,
    secret: str | None,
    file: BinaryIO | None = None,
) -> Accepted:
    given: dict[str, Any] = {} if file is None else {"parts": partial(pieces, file)}
    recognizer = await service.store.recognizers.create(
        asdict(options),
        max_open=service.tuning.max_jobs,
        max_recognizers=service.tuning.max_recognizers,
        name=asked.name,
        options=_told(options),
        contract_id=options.contract_id,
        collection_id=options.collection_id,
        callback_url=asked.callback_url,
        callback_secret=secret,
        **given,
    )
    return Accepted(recognizer, secret)


def _told(options: BuildOptions) -> Mapping[str, Any]:
    """What holds for this build, as clients are told."""
    names = ["optimize", "seed", "threshold", "min_pictures"]
    if options.optimize:
        names += OF_SEARCHES
    if options.collection_id is None:
        names += ["face", "min_quality"] if options.labelled else ["face", "min_quality", "pattern"]
    told = asdict(options)
    return {name: told[name] for name in names}
