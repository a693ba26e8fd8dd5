"""`updog drill list` and `run`: the drills that there are, and their results on your releases."""

from __future__ import annotations

import platform
import shutil
import signal
import sys
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from signpost.console import QuickCommand, emit, example, json_option, note
from updog.errors import ConfigError
from updog.update_metadata.errors import VersionError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from updog.drill.drill_file import Drill, Kind
    from updog.drill.machine import DrillReleases, Machine
    from updog.drill.series import MachineMaker, Result

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_NEW_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("list", cls=QuickCommand)
@json_option
@example("updog drill list")
def list_drills(as_json: bool) -> None:
    """List the drills shipped with updog, and the releases they need."""
    from signpost.text import table
    from updog.drill.catalog import shipped

    drills = shipped()
    document = [
        {"drill": each.name, "title": each.title, "releases": sorted(each.kinds), "scenarios": each.scenarios}
        for each in drills
    ]
    rows = [(each.name, ", ".join(sorted(each.kinds - {"first"})), each.title) for each in drills]
    emit(document, table([("drill", "releases", "what"), *rows]), as_json=as_json)


@click.command("run", cls=QuickCommand)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--repo", type=_FOLDER, help="Repository folder, instead of the two URLs.")
@click.option("--metadata-url", help="Base URL of the TUF metadata.")
@click.option("--targets-url", help="Base URL of the targets.")
@click.option(
    "--trusted-root", type=_FILE, help="root.json that the node trusts.  [default: version 1 of --repo]"
)
@click.option(
    "--disk",
    type=_FILE,
    required=True,
    help="Disk image with the first release in slot A; copied, never written.",
)
@click.option("--variant", required=True, help="VARIANT_ID of the releases.")
@click.option("--arch", default=platform.machine(), show_default=True, help="Architecture of the releases.")
@click.option(
    "--release",
    "releases",
    multiple=True,
    metavar="KIND=VERSION",
    help="The version of a kind of release; repeatable. Drills that lack one are skipped.",
)
@click.option(
    "--results",
    type=_NEW_FOLDER,
    default=Path("drill-results"),
    show_default=True,
    help="Folder for console logs, and for the disks of failed drills.",
)
@click.option(
    "--qemu",
    "in_qemu",
    is_flag=True,
    help="Start the releases themselves, in QEMU; without it they are simulated.",
)
@click.option(
    "--boot-stage",
    type=_FOLDER,
    help="Folder of `repo-tools boot-stage build`, for --qemu.  [default: firmware starts the disk]",
)
@click.option(
    "--qemu-option", "qemu_options", multiple=True, metavar="WORD", help="Another word for QEMU; repeatable."
)
@click.option("--junit", type=_NEW_FILE, help="Write a JUnit XML report.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Drills at the same time."
)
@click.option("--dice", type=int, default=0, show_default=True, help="Seed of the random moments.")
@json_option
@example(
    "updog drill run --repo repo --disk disk.img --variant demo \\",
    "    --release first=1.0.0 --release good=1.1.0 --junit drills.xml",
)
def run(
    names: tuple[str, ...],
    repo: Path | None,
    metadata_url: str | None,
    targets_url: str | None,
    trusted_root: Path | None,
    disk: Path,
    variant: str,
    arch: str,
    releases: tuple[str, ...],
    results: Path,
    in_qemu: bool,
    boot_stage: Path | None,
    qemu_options: tuple[str, ...],
    junit: Path | None,
    jobs: int,
    dice: int,
    as_json: bool,
) -> None:
    """Run drills on your releases: bad kernels, power cuts and more.

    NAME is one of `updog drill list`, or the path of your own drill file (.toml). Without a name, all shipped
    drills run. Each has to end as its file says.

    Exit status: 0 all passed or were skipped, 1 a drill failed, 3 all were skipped.
    """
    from updog.cli import clock
    from updog.drill import catalog
    from updog.drill.machine import DrillReleases
    from updog.drill.releases import find
    from updog.drill.series import Series, require_passed

    if in_qemu:
        _require_emulation()
    drills = catalog.choose(names)
    metadata, targets, root = _places(repo, metadata_url, targets_url, trusted_root)
    wanted = DrillReleases(
        disk=disk.resolve(),
        metadata_url=metadata,
        targets_url=targets,
        root=root.read_bytes(),
        variant=variant,
        arch=arch,
        versions=_versions(releases),
    )
    found = find(wanted, now=clock())
    for drill in drills:
        shutil.rmtree(results / drill.name, ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    machines = (
        _emulated(dice, drills, found.roots_behind, results.resolve(), boot_stage, qemu_options)
        if in_qemu
        else nullcontext(_simulated(dice))
    )
    done = []
    with _terminable(), machines as make:
        for result in Series(releases=found, make=make, folder=results.resolve(), jobs=jobs).run(drills):
            done.append(result)
            _print(result, len(done), len(drills), as_json=as_json)
    _report(done, junit, machine="qemu" if in_qemu else "played", as_json=as_json)
    require_passed(done)


@contextmanager
def _terminable() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C, so that no machine is left running."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _simulated(dice: int) -> MachineMaker:
    """Return the maker of simulated machines."""
    import random

    from updog.cli import clock
    from updog.drill.simulated import SimulatedMachine

    def make(drill: Drill, releases: DrillReleases, folder: Path) -> Machine:
        seeded = random.Random(f"{dice} {drill.name}")  # noqa: S311 - has to be repeatable
        return SimulatedMachine(folder=folder, releases=releases, drill=drill, clock=clock, dice=seeded)

    return make


def _require_emulation() -> None:
    """Raise ConfigError if this installation lacks machines in QEMU, as the Debian package of a node does."""
    from importlib.util import find_spec

    if find_spec("updog.drill.emulated") is None:
        step = "Install the package repo-tools beside it, or leave out --qemu."
        raise ConfigError("drills in QEMU are not part of this installation", next_step=step)


@contextmanager
def _emulated(
    dice: int,
    drills: Sequence[Drill],
    roots_behind: int,
    folder: Path,
    boot_stage: Path | None,
    options: tuple[str, ...],
) -> Iterator[MachineMaker]:
    """Yield the maker of machines in QEMU.

    Raises:
        DrillSkippedError: QEMU is not installed.
    """
    import random

    from updog.drill.emulated import EmulatedMachine
    from updog.drill.qemu import Hardware, require
    from updog.drill.snapshots import Emulation, shared_openings
    from updog.errors import DrillSkippedError

    hardware = Hardware(stage=boot_stage and boot_stage.resolve(), options=options)
    require(hardware)
    with closing(
        Emulation(hardware=hardware, folder=folder / "prepared", shared=shared_openings(drills))
    ) as emulation:

        def make(drill: Drill, releases: DrillReleases, folder: Path) -> Machine:
            if drill.rotations > roots_behind:  # the node trusts the root in its image
                raise DrillSkippedError(f"the root in the image is only {roots_behind} versions behind")
            seeded = random.Random(f"{dice} {drill.name}")  # noqa: S311 - has to be repeatable
            return EmulatedMachine(folder, releases, drill, emulation, seeded)

        yield make


def _places(
    repo: Path | None, metadata_url: str | None, targets_url: str | None, root: Path | None
) -> tuple[str, str, Path]:
    """Return the URLs of metadata and targets, and the trusted root. Raises ConfigError."""
    if repo is not None and not metadata_url and not targets_url:
        base = repo.resolve().as_uri()
        return f"{base}/metadata/", f"{base}/targets/", root or repo / "metadata" / "1.root.json"
    if repo is None and metadata_url and targets_url and root:
        return metadata_url, targets_url, root
    raise ConfigError(
        "no repository was given",
        next_step="Give --repo, or all of --metadata-url, --targets-url and --trusted-root.",
    )


def _versions(words: tuple[str, ...]) -> Mapping[Kind, Version]:
    """Return the version of each kind from ``KIND=VERSION`` words. Raises ConfigError."""
    from updog.drill.drill_file import Kind

    versions = {}
    for word in words:
        kind, _, version = word.partition("=")
        try:
            versions[Kind(kind)] = Version.parse_friendly(version)
        except (ValueError, VersionError) as error:
            step = f"Write KIND=VERSION, KIND one of {', '.join(Kind)}."
            raise ConfigError(f"--release {word}: {error}", next_step=step) from error
    if Kind.FIRST not in versions:
        raise ConfigError("the release on the disk was not given", next_step="Give --release first=VERSION.")
    return versions


def _print(result: Result, number: int, of: int, *, as_json: bool) -> None:
    """Print the result of a drill as soon as it ends."""
    if as_json:
        import json

        click.echo(json.dumps({"event": "drill", **result.to_json()}))
    else:
        cause = f": {result.cause}" if result.verdict != "passed" else ""
        note(f"[{number}/{of}] {result.drill} {result.verdict} in {result.seconds:.1f} s{cause}")


def _report(results: list[Result], junit: Path | None, *, machine: str, as_json: bool) -> None:
    """Print the closing table and write the report."""
    from updog.drill import report

    if junit is not None:
        junit.parent.mkdir(parents=True, exist_ok=True)
        junit.write_bytes(report.junit(results, machine=machine))
    if as_json:
        import json

        rows = [result.to_json() for result in results]
        click.echo(json.dumps({"event": "result", "machine": machine, "drills": rows}))
    else:
        sys.stderr.flush()
        click.echo(report.results_table(results))
