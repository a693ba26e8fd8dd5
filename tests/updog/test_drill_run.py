"""Drills on simulated machines: all that are shipped, on a small real repository, by the command line."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from repo_tools.keys.signers import no_secrets
from repo_tools.upkeep.refresh import refresh
from signpost import gptprio
from signpost.app import UnbootedDisk
from signpost.disk import Disk
from signpost.errors import ToolError
from signpost.gptprio import Flags
from signpost.medium import OsMedium, opened
from tests.support.nodes import TWO_SLOTS, CommandResult, command_line, disk_bytes, images_of, now
from tests.support.repositories import ARCH, VARIANT, SmallRepository, make_repository
from updog.drill import releases as drill_releases
from updog.drill.catalog import choose, shipped
from updog.drill.drill_file import Drill, Kind, Moment, Until, parse
from updog.drill.machine import DrillReleases
from updog.drill.power_cuts import CuttingMedium, PowerCutError, cut_points
from updog.drill.runner import run_drill
from updog.drill.series import DrillVerdict, Series
from updog.drill.simulated import SimulatedMachine
from updog.errors import DrillFailedError
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = {
    "first": "1.0.0",
    "good": "1.1.0",
    "bad-kernel": "1.2.0",
    "panic": "1.3.0",
    "no-init": "1.4.0",
    "unhealthy": "1.5.0",
    "hanging": "1.6.0",
}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A repository with releases, and a disk: what drills are run with."""

    folder: Path
    repository: SmallRepository

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def run(self, *words: str, releases: dict[str, str] | None = None) -> CommandResult:
        """Run ``updog drill run``."""
        named = [f"--release={kind}={version}" for kind, version in (releases or KINDS).items()]
        places = ["--repo", str(self.repository.folder), "--disk", str(self.disk)]
        family = ["--variant", VARIANT, "--arch", ARCH, "--results", str(self.results)]
        return command_line(["drill", "run", *places, *family, *named, *words])

    def releases(self) -> DrillReleases:
        """Return the same for code below the command line."""
        base = self.repository.folder.as_uri()
        wanted = DrillReleases(
            disk=self.disk,
            metadata_url=f"{base}/metadata/",
            targets_url=f"{base}/targets/",
            root=self.repository.root_json,
            variant=VARIANT,
            arch=ARCH,
            versions={Kind(kind): Version.parse(version) for kind, version in KINDS.items()},
        )
        return drill_releases.find(wanted, now=now())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Return a repository with a release of every kind, whose root was signed six times, and a disk."""
    folder = tmp_path_factory.mktemp("inputs")
    repository = make_repository(folder / "repo", versions=list(KINDS.values()))
    for _ in range(5):
        refresh(repository.folder, within=timedelta(days=9999), now=now(), secrets=no_secrets)
    (folder / "disk.img").write_bytes(disk_bytes(images_of(repository, "1.0.0"), flags=TWO_SLOTS))
    return Inputs(folder=folder, repository=repository)


def test_every_shipped_drill_passes_and_its_console_is_kept(inputs: Inputs) -> None:
    before = inputs.disk.read_bytes()
    said = inputs.run("--json", "--jobs", "2", "--junit", str(inputs.folder / "drills.xml"))
    assert said.status == 0, said.out
    *events, result = said.events
    assert [row for row in result["drills"] if row["result"] != "passed"] == []
    assert said.status == 0
    assert [event["drill"] for event in events] == [drill.name for drill in shipped()]
    assert result["drills"] == [{k: v for k, v in event.items() if k != "event"} for event in events]
    boots = {row["drill"]: row["boots"] for row in result["drills"]}
    assert boots["good-update"] == 2
    assert boots["power-cycles"] == 7
    assert boots["cut-anywhere"] >= 21
    for row in result["drills"]:
        assert "slot A, 1.0.0: up" in Path(row["console"]).read_text()
        assert not Path(row["console"]).with_name("disk.img").exists()
    assert inputs.disk.read_bytes() == before
    suite = ET.parse(inputs.folder / "drills.xml").getroot()[0]  # noqa: S314 - ours
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(events)), "0", "0")


def test_what_a_rollback_said_is_the_cause_in_the_table(inputs: Inputs) -> None:
    said = inputs.run("health-failing", "--dice", "7")
    assert said.status == 0
    head, row, _, total = said.out.splitlines()
    assert head.split() == ["drill", "boots", "seconds", "result", "cause"]
    assert "health-failing  3" in row
    assert "1.5.0 in slot B failed its health check: 10-drill: exited" in row
    assert total.startswith("1 passed; 3 boots, ")
    assert "[1/1] health-failing passed in" in said.err


def test_a_drill_that_lacks_a_release_is_skipped_and_says_which(inputs: Inputs) -> None:
    few = {"first": "1.0.0", "good": "1.1.0"}
    said = inputs.run("good-update", "kernel-panic", "--junit", str(inputs.folder / "few.xml"), releases=few)
    assert said.status == 0
    assert "no release of kind panic was given" in said.out
    assert "1 passed, 1 skipped" in said.out
    case = ET.parse(inputs.folder / "few.xml").getroot()[0][1]  # noqa: S314 - ours
    assert case.find("skipped") is not None
    assert inputs.run("kernel-panic", releases=few).status == 3


def test_one_version_can_stand_for_several_kinds_but_not_in_one_drill(inputs: Inputs) -> None:
    same = {"first": "1.0.0", "good": "1.1.0", "panic": "1.1.0", "unhealthy": "1.1.0"}
    said = inputs.run("good-update", "kernel-panic", "two-bad-releases", releases=same)
    assert said.status == 0
    assert "2 passed, 1 skipped" in said.out
    assert "needs different releases for first, good, panic, unhealthy" in said.out


def test_a_drill_that_does_not_end_as_it_must_fails_and_keeps_its_node(
    inputs: Inputs, tmp_path: Path
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        'title = "Own"\nsteps = [{ do = "update", to = "panic" }, { do = "restart" }]\n'
        '[end]\nrunning = "panic"\ndenied = []\n'
    )
    said = inputs.run(str(own), "good-update", "--junit", str(tmp_path / "own.xml"))
    assert said.status == 1
    assert "own failed in" in said.err
    assert "the end: 1.0.0 runs, not 1.3.0 (panic); denied is 1.3.0, not nothing" in said.out
    assert "1 passed, 1 failed" in said.out
    assert (inputs.results / "own" / "disk.img").exists()
    failure = ET.parse(tmp_path / "own.xml").getroot()[0][0].find("failure")  # noqa: S314 - ours
    assert failure is not None
    assert "1.0.0 runs" in str(failure.text)


class LostMachine(SimulatedMachine):
    """A machine that does not respond."""

    def start(self, until: Until) -> bool:
        raise ConnectionRefusedError(f"nobody there ({until})")


def test_a_machine_that_cannot_be_spoken_to_fails_its_drill_and_no_other(
    inputs: Inputs, tmp_path: Path
) -> None:
    def make(drill: Drill, releases: DrillReleases, folder: Path) -> SimulatedMachine:
        kind = LostMachine if drill.name == "good-update" else SimulatedMachine
        return kind(folder=folder, releases=releases, drill=drill, clock=now, dice=random.Random(0))

    series = Series(releases=inputs.releases(), make=make, folder=tmp_path)
    lost, fine = series.run(choose(["good-update", "bad-kernel"]))
    assert (lost.verdict, lost.cause) == (DrillVerdict.FAILED, "nobody there (judged)")
    assert fine.verdict is DrillVerdict.PASSED


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--release", "fine=1.0.0"), "--release fine=1.0.0"),
        (("--release", "good=one"), "--release good=one"),
        (("--release", "good=9.9.9"), "the repository has no synthetic x86_64 9.9.9"),
        (("--metadata-url", "http://127.0.0.1/"), "no repository was given"),
        (("good-updat",), "did you mean 'good-update'"),
    ],
)
def test_wrong_usage_is_named_before_anything_is_run(
    inputs: Inputs, words: tuple[str, ...], message: str
) -> None:
    said = inputs.run(*words)
    assert said.status == 2
    assert message in said.err


def test_the_release_on_the_disk_has_to_be_named(inputs: Inputs) -> None:
    assert "the release on the disk was not given" in inputs.run(releases={"good": "1.1.0"}).err


def test_drills_are_listed_with_what_they_need(inputs: Inputs) -> None:
    del inputs
    listed = command_line(["drill", "list", "--json"]).document
    assert {row["drill"] for row in listed} == {drill.name for drill in shipped()}
    assert "kernel-panic             panic" in command_line(["drill", "list"]).out


# -- a drill that cannot fail is a defect ---------------------------------------------------------------


class SpoiltMachine(SimulatedMachine):
    """A machine that changes the root of the running slot, once it is up: this must never be seen."""

    def start(self, until: Until) -> bool:
        up = super().start(until)
        place = self._agent().status().view.slots[self._agent().status().running.slot].root
        with self.disk.open("r+b") as disk:
            disk.seek(place.offset)
            disk.write(b"spoilt")
        return up


class LazyMachine(SimulatedMachine):
    """A machine whose releases all come up, whatever their faults."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._node.faults = {}


class ForgetfulMachine(SimulatedMachine):
    """A machine that loses the flags of the slot it came from."""

    def restart(self, until: Until) -> bool:
        up = super().restart(until)
        medium = OsMedium()
        descriptor = medium.open(str(self.disk), write=True)
        medium.write_at(descriptor, _unbootable(self.disk), 0)
        medium.close(descriptor)
        return up


def _unbootable(disk: Path) -> bytes:
    """Return the beginning of a disk whose table has no flags in any BOOT entry."""
    copy = disk.with_name("copy.img")
    copy.write_bytes(disk.read_bytes())
    door = Disk(OsMedium(), str(copy))
    loaded = door.load()
    indices = [slot.boot.number - 1 for slot in UnbootedDisk(OsMedium(), str(copy)).view().slots.values()]
    entries = loaded.table.entries
    cleared = {
        index: replace(entries[index], attributes=gptprio.with_flags(entries[index].attributes, Flags()))
        for index in indices
    }
    door.store(loaded, cleared)
    return copy.read_bytes()[: 1 << 20]


@pytest.mark.parametrize(
    ("kind", "drill", "said"),
    [
        (SpoiltMachine, "good-update", "root of the running slot A is not as signed"),
        (LazyMachine, "kernel-panic", "1.3.0 runs, which is a release of kind panic"),
        (LazyMachine, "health-failing", "1.5.0 runs, not 1.0.0 (first)"),
        (ForgetfulMachine, "good-update", "no slot can be booted any more"),
    ],
)
def test_a_machine_that_breaks_an_invariant_is_caught(
    inputs: Inputs, tmp_path: Path, kind: Callable[..., SimulatedMachine], drill: str, said: str
) -> None:
    with pytest.raises(ToolError) as caught:
        _run(inputs, tmp_path, choose([drill])[0], kind)
    assert said in caught.value.message


def test_an_order_that_ends_otherwise_than_it_must_is_caught(inputs: Inputs, tmp_path: Path) -> None:
    drill = parse(
        "own",
        'title = "Own"\nsteps = [{ do = "update", to = "good", exit = 4 }]\n[end]\nrunning = "first"\n',
    )
    with pytest.raises(DrillFailedError, match="exit status 0, not 4"):
        _run(inputs, tmp_path, drill, SimulatedMachine)


def test_a_disk_is_not_changed_under_a_running_system(inputs: Inputs, tmp_path: Path) -> None:
    drill = parse(
        "own",
        'title = "Own"\nsteps = [{ do = "grow", mebibytes = 1 }]\n[end]\nrunning = "first"\n',
    )
    size = inputs.disk.stat().st_size
    with pytest.raises(DrillFailedError, match="has to switch it off"):
        _run(inputs, tmp_path, drill, SimulatedMachine)
    assert (tmp_path / "node" / "disk.img").stat().st_size == size


def test_nothing_reaches_a_medium_after_its_power_is_cut(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4 << 20))
    whole = CuttingMedium(disk)
    _write_twice(whole, disk)
    assert [call.in_slot for call in whole.calls] == [False, True, False, False]
    assert cut_points(whole.calls, Moment.WRITE, tmp_path / "spool") == [1]
    assert cut_points(whole.calls, Moment.DOWNLOAD, tmp_path) == [0, 1, 2, 3]
    for at, written in enumerate([b"ab\0\0", b"abcd", b"abcd", b"abcd"]):
        disk.write_bytes(bytes(4 << 20))
        medium = CuttingMedium(disk, at=at)
        with pytest.raises(PowerCutError):
            _write_twice(medium, disk)
        assert disk.read_bytes()[:4] == written
        assert disk.read_bytes()[2 << 20 :][:4] == (b"abcd" if at > 1 else b"ab\0\0" if at else bytes(4))
        with pytest.raises(PowerCutError):
            medium.remove(str(disk))
        assert disk.exists()


def test_power_goes_at_its_call_whichever_thread_makes_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1000))
    medium = CuttingMedium(disk, at=700)
    descriptor = medium.open(str(disk), write=True)

    def write(first: int) -> None:
        with suppress(PowerCutError):
            for place in range(first, 1000, 4):
                medium.write_at(descriptor, b"x", place)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
    finally:
        sys.setswitchinterval(before)
    assert (len(medium.calls), disk.read_bytes().count(b"x")) == (700, 700)


def _write_twice(medium: CuttingMedium, disk: Path) -> None:
    with opened(medium, str(disk), write=True) as descriptor:
        try:
            medium.write_at(descriptor, b"abcd", 0)
            medium.write_at(descriptor, b"abcd", 2 << 20)
            medium.flush(descriptor)
        finally:
            medium.rename(str(disk), str(disk))


def _run(inputs: Inputs, folder: Path, drill: Drill, kind: Callable[..., SimulatedMachine]) -> None:
    releases = inputs.releases()
    machine = kind(folder=folder / "node", releases=releases, drill=drill, clock=now, dice=random.Random(0))
    run_drill(drill, machine, releases)
