"""The agent over media that fail or lie: what was not proven never counts, what runs is never touched."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.keys.signers import no_secrets
from repo_tools.repository.change_log import Change
from repo_tools.repository.session import writing
from signpost.app import Signpost
from signpost.errors import MediumError, ToolError
from signpost.errors import ReadBackError as TableReadBackError
from signpost.gptprio import Flags
from signpost.medium import OsMedium
from signpost.sets import ImageKind, Slot
from signpost.state import Command
from tests.support.nodes import (
    CONFIRMED,
    NEWER,
    NEWEST,
    DecayedMedium,
    FailingMedium,
    LosingMedium,
    LyingMedium,
    Node,
    make_node,
    now,
)
from updog.errors import (
    DeniedVersionError,
    DigestError,
    ExpiredError,
    HealthError,
    HostError,
    IndexFormatError,
    NothingToDoError,
    PreflightError,
    ReadBackError,
)
from updog.standing import Standing
from updog.update_metadata.by_image import ByImage
from updog.update_metadata.packs import Packs
from updog.update_metadata.version import Version
from updog.views import UpdateRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from updog.update_metadata.manifest import Update

WISHES = UpdateRequest()
DISK_CALLS = ("write", "flush", "drop_cache")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node that streams, so that every write to its disk belongs to the update."""
    return make_node(tmp_path, spool=False)


def _disk_steps(node: Node, folder: Path) -> int:
    """Return how many calls an update makes on everything it writes to."""
    medium = FailingMedium(only=DISK_CALLS)
    node.copy(folder).agent(medium).update(WISHES)
    return len(medium.steps)


def _assert_untouched_and_safe(node: Node) -> None:
    """Assert that the running slot is as it was, and that the other one can boot only if it is whole."""
    assert node.holds(Slot.A, "1.0.0")
    assert node.flags(Slot.A).successful
    if node.flags(Slot.B).tries:
        assert node.holds(Slot.B, NEWER)
    if node.view().next is not Slot.A:
        assert node.holds(Slot.B, NEWER)
    node.agent().status()


@pytest.mark.parametrize(
    ("number", "once"),
    [(errno.EIO, True), (errno.EIO, False), (errno.ENOSPC, True)],
    ids=["EIO once", "EIO for good", "ENOSPC once"],
)
def test_a_failure_of_any_write_or_flush_leaves_a_node_that_runs_and_can_update(
    tmp_path: Path,
    number: int,
    once: bool,  # noqa: FBT001 - parametrized
) -> None:
    """D71."""
    node = make_node(tmp_path, spool=False)
    count = _disk_steps(node, tmp_path / "counted")
    for at in range(count):
        each = node.copy(tmp_path / f"{at}")
        try:
            each.agent(FailingMedium(at, errno=number, once=once, only=DISK_CALLS)).update(WISHES)
        except MediumError:
            _assert_untouched_and_safe(each)
        else:  # what could not be kept for a next run does not matter to this one
            assert once
            assert each.view().next is Slot.B
        if at % 3 == 0 and number == errno.EIO and once:
            try:
                each.agent().update(WISHES)
            except NothingToDoError:
                assert each.view().next is Slot.B
            assert each.holds(Slot.B, NEWER)
            assert str(each.start().version) == NEWER
        each.disk.unlink()


def test_a_failure_while_the_image_is_written_leaves_the_slot_without_tries(
    node: Node, tmp_path: Path
) -> None:
    """D71: of every write into slot B, none of which may make it bootable."""
    recorded = FailingMedium(only=["write"])
    node.copy(tmp_path / "counted").agent(recorded).update(WISHES)
    start = node.view().slots[Slot.B].boot.offset
    end = node.view().slots[Slot.B].hash.offset + node.view().slots[Slot.B].hash.size
    inside = [
        number
        for number, step in enumerate(recorded.steps)
        if step.path.endswith("disk.img") and start <= step.offset < end
    ]
    assert len(inside) >= 3
    for number in inside:
        each = node.copy(tmp_path / str(number))
        with pytest.raises(MediumError):
            each.agent(FailingMedium(number, once=True, only=["write"])).update(WISHES)
        assert each.flags(Slot.B) == Flags()
        assert each.flags(Slot.A) == CONFIRMED
        assert each.agent().status().standing is Standing.NONE
        assert str(each.start().version) == "1.0.0"


@pytest.mark.parametrize("role", ["boot", "root", "hash"])
@pytest.mark.parametrize("spool", [True, False], ids=["spooled", "streamed"])
def test_a_disk_that_lies_is_found_out_and_its_slot_never_marked_valid(
    tmp_path: Path,
    role: str,
    spool: bool,  # noqa: FBT001 - parametrized
) -> None:
    """D79."""
    node = make_node(tmp_path, spool=spool)
    place = getattr(node.view().slots[Slot.B], role)
    with pytest.raises(ReadBackError):
        node.agent(LyingMedium(place.offset + 10)).update(WISHES)
    assert node.flags(Slot.B) == Flags()
    assert node.view().next is Slot.A
    assert node.agent().status().standing is Standing.NONE
    with pytest.raises(NothingToDoError):
        node.agent().apply()


@pytest.mark.parametrize("role", ["boot", "root", "hash"])
@pytest.mark.parametrize("packed", [True, False], ids=["pack", "stream"])
@pytest.mark.parametrize("spool", [True, False], ids=["spooled", "streamed"])
def test_what_the_disk_lost_is_found_out_although_the_kernel_still_has_it(
    tmp_path: Path,
    role: str,
    packed: bool,  # noqa: FBT001 - parametrized
    spool: bool,  # noqa: FBT001 - parametrized
) -> None:
    node = make_node(tmp_path, published=[], spool=spool)
    node.publish(NEWER)
    if not packed:
        _edit_update(node, NEWER, packs=None)
    place = getattr(node.view().slots[Slot.B], role)
    with pytest.raises(ReadBackError):
        node.agent(LosingMedium(node.disk, place.offset + 10)).update(WISHES)
    assert node.flags(Slot.B) == Flags()
    assert node.view().next is Slot.A


@pytest.mark.parametrize("role", ["boot", "root", "hash"])
@pytest.mark.parametrize("slot", [Slot.A, Slot.B])
@pytest.mark.parametrize("deltas", [True, False], ids=["delta", "fingerprints"])
def test_a_sector_that_cannot_be_read_does_not_stop_the_update_that_renews_it(
    tmp_path: Path,
    role: str,
    slot: Slot,
    deltas: bool,  # noqa: FBT001 - parametrized
) -> None:
    node = make_node(tmp_path)
    if not deltas:
        update = node.agent().check(WISHES).update
        assert update is not None
        assert update.packs is not None
        of = update.packs.of
        packs = Packs.made(lambda kind: replace(of(kind), deltas={}))
        _edit_update(node, NEWER, packs=packs)
    place = getattr(node.view().slots[slot], role)
    position = 0 if slot is Slot.B else 4096  # more of the inactive slot is not read if that differs
    medium = DecayedMedium(node.disk, place.offset + position)
    node.agent(medium).update(WISHES)
    assert medium.refused
    assert medium.is_decayed is (slot is Slot.A), "what runs is never written"
    assert node.holds(Slot.B, NEWER)
    assert node.view().next is Slot.B


@pytest.mark.parametrize("kind", list(ImageKind))
@pytest.mark.parametrize("member", ["size", "sha256"])
@pytest.mark.parametrize("spool", [True, False], ids=["spooled", "streamed"])
def test_an_image_other_than_the_manifest_says_is_refused_before_a_write(
    tmp_path: Path,
    kind: ImageKind,
    member: str,
    spool: bool,  # noqa: FBT001 - parametrized
) -> None:
    """Each file is signed, but the image that they make is not the one in `contents`."""
    node = make_node(tmp_path, spool=spool)
    update = node.agent().check(WISHES).update
    assert update is not None
    assert update.contents is not None
    true = update.contents
    other = true.of(kind)
    false = replace(other, size=other.size - 1) if member == "size" else replace(other, sha256="0" * 64)
    _edit_update(node, NEWER, contents=ByImage.made(lambda each: false if each is kind else true.of(each)))
    before = node.disk_digest()
    with pytest.raises(IndexFormatError, match="index of another image than the manifest's"):
        node.agent().update(WISHES)
    assert node.disk_digest() == before


def test_a_version_that_was_published_again_with_other_images_is_installed_again(tmp_path: Path) -> None:
    """What waits in the slot is the update only if its images are those that are now signed."""
    node = make_node(tmp_path)
    node.agent().update_image(WISHES)
    update = node.agent().check(WISHES).update
    assert update is not None
    node.publish(NEWEST)
    other = next(each for each in _updates(node) if str(each.version) == NEWEST)
    _edit_update(node, NEWER, images=other.images, contents=other.contents, packs=other.packs)
    node.agent().update_image(UpdateRequest(version=update.version))
    assert node.holds(Slot.B, NEWEST)


def test_apply_records_before_it_changes_the_table(node: Node) -> None:
    """The table is the evidence (ADR 0004): its state must be explained by what was recorded before."""
    node.agent().update_image(WISHES)
    medium = FailingMedium()
    node.agent(medium).apply()
    of_disk = [
        n for n, step in enumerate(medium.steps) if step.name == "write" and step.path == str(node.disk)
    ]
    recorded = [n for n, step in enumerate(medium.steps) if step.path == str(node.state_file)]
    assert of_disk
    assert recorded
    assert max(recorded) < min(of_disk)


@pytest.mark.parametrize("once", [True, False], ids=["once", "for good"])
def test_apply_that_fails_to_record_leaves_the_table(
    node: Node,
    once: bool,  # noqa: FBT001 - parametrized
) -> None:
    node.agent().update_image(WISHES)
    before = node.disk_digest()
    with pytest.raises(MediumError):
        node.agent(FailingMedium(0, once=once, only=["rename"])).apply()
    assert node.disk_digest() == before
    assert node.agent().status().standing is Standing.STAGED


def test_a_disk_that_lies_about_its_table_fails_the_command_and_still_boots(node: Node) -> None:
    """D79: the other copy is left alone."""
    size = node.disk.stat().st_size
    entries = size - 512 - 16384  # of the backup, which is written first
    node.agent().update_image(WISHES)
    with pytest.raises(TableReadBackError):
        node.agent(LyingMedium(entries + 130)).apply()
    assert node.view().next in set(Slot)
    assert str(node.start().version) in {"1.0.0", NEWER}


def test_a_slot_is_marked_valid_only_after_its_last_byte_was_read_back(node: Node, tmp_path: Path) -> None:
    """D02 to D04: in the order of the calls themselves."""
    medium = FailingMedium(only=["write", "read", "flush"])
    played = node.copy(tmp_path / "played")
    played.agent(medium).update_image(WISHES)
    slot = played.view().slots[Slot.B]
    on_disk = [step for step in medium.steps if step.path == str(played.disk)]

    def last(name: str) -> int:
        first, end = slot.boot.offset, slot.hash.offset + slot.hash.size
        return max(n for n, step in enumerate(on_disk) if step.name == name and first <= step.offset < end)

    table = [n for n, step in enumerate(on_disk) if step.name == "write" and step.offset < slot.boot.offset]
    marked = [n for n in table if n > last("write")]
    assert last("write") < last("read") < min(marked)
    assert any(step.name == "flush" for step in on_disk[last("write") : last("read")])


def test_the_kernel_is_written_last(node: Node, tmp_path: Path) -> None:
    """D03: a half-written slot has no kernel yet."""
    medium = FailingMedium(only=["write"])
    played = node.copy(tmp_path / "played")
    played.agent(medium).update_image(WISHES)
    slot = played.view().slots[Slot.B]
    order = [
        role
        for step in medium.steps
        for role in ("boot", "root", "hash")
        if (place := getattr(slot, role)).offset <= step.offset < place.offset + place.size
        and step.path == str(played.disk)
    ]
    assert list(dict.fromkeys(order)) == ["root", "hash", "boot"]


def test_the_clock_set_back_does_not_bring_expired_metadata_to_life(node: Node) -> None:
    """D47, D56: the time when the repository was signed is remembered; what a clock showed is not."""
    node.agent().check(WISHES)
    before = node.state().signed_time
    assert before is not None
    later = now() + timedelta(days=4000)
    with pytest.raises(ExpiredError):
        node.agent(clock=lambda: later).check(WISHES)
    node.agent().check(WISHES)  # the wrong clock was not remembered
    assert node.state().signed_time == before


def test_expired_metadata_keeps_nobody_from_confirming_or_going_back(node: Node) -> None:
    """D55."""
    node.agent().update(WISHES)
    later = now() + timedelta(days=4000)
    node.agent(clock=lambda: later).revert()
    node.agent(clock=lambda: later).apply()
    node.start()
    node.agent(clock=lambda: later).confirm()
    assert node.flags(Slot.B).successful


def test_a_clock_in_1970_during_the_trial_does_not_matter(node: Node) -> None:
    """D42."""
    node.agent().update(WISHES)
    node.start()
    long_ago = now().replace(year=1970)
    node.agent(clock=lambda: long_ago).confirm()
    assert node.codes()[-1] == "confirmed"
    node.agent().check(WISHES)


def test_a_required_check_that_fails_where_no_other_slot_can_boot_keeps_the_node_up(node: Node) -> None:
    """D45: nothing to fall back to; the cause is reported, and a good check later confirms."""
    node.agent().update(WISHES)
    node.start()
    node.agent().confirm()
    disk = node.view()
    assert disk.slots[Slot.A].flags.successful
    table = Signpost(OsMedium(), str(node.disk), Slot.A)
    table.apply(Command.CLEAR_INACTIVE)
    table.apply(Command.MARK_INACTIVE_VALID)
    table.apply(Command.UPGRADE_TO_INACTIVE)
    Signpost(OsMedium(), str(node.disk), Slot.B).apply(Command.CLEAR_INACTIVE)
    check = node.health_check("20-web", "exit 1")
    with pytest.raises(HealthError, match="cannot take over"):
        node.agent().confirm()
    assert node.view().next is Slot.B
    check.unlink()
    node.agent().confirm()
    assert node.flags(Slot.B).successful
    assert not node.state().denied


def test_a_fall_back_is_not_refused_because_the_cause_was_recorded_before(node: Node) -> None:
    node.agent().update(WISHES)
    node.start()
    node.health_check("20-web", "exit 1")
    for _ in range(2):
        with pytest.raises(HealthError, match="Slot A boots next"):
            node.agent().confirm()
    node.health_check("20-web", "exit 0")
    with pytest.raises(HealthError, match=r"has already failed its health check\. Slot A boots next"):
        node.agent().confirm()  # a check that passes late must not leave a confirmed slot that cannot boot
    assert str(node.start().version) == "1.0.0"


def test_an_update_that_could_not_be_installed_leaves_its_reason_once(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    for image in (node.repository.folder / "targets").glob(f"*{NEWER}-root*"):
        image.write_bytes(b"something else")
    for _ in range(2):
        with pytest.raises(DigestError):
            node.agent().update(WISHES)
    (event,) = node.state().history
    assert (event.code.value, str(event.version)) == ("install-failed", NEWER)
    assert event.sentence.startswith(f"{NEWER} was not installed: ")


def test_prepare_is_refused_if_nothing_may_be_stored_first(node: Node) -> None:
    with pytest.raises(PreflightError, match="`spool = false`") as caught:
        node.agent().prepare(WISHES)
    assert "stream" in caught.value.next_step


def test_what_nobody_recorded_cannot_be_verified(node: Node) -> None:
    with pytest.raises(HostError, match="no record of what is in slot B"):
        node.agent().verify(Slot.B)


def test_a_running_version_that_is_not_published_cannot_be_verified(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[])
    node.state_file.unlink()
    release = node.folder / "run" / "os-release"
    release.write_text(release.read_text().replace("1.0.0", "0.9.0"))
    with pytest.raises(HostError, match=r"does not list the contents of synthetic 0\.9\.0"):
        node.agent().verify(Slot.A)


def test_a_slot_that_came_with_the_disk_is_recorded_once_it_was_verified(node: Node) -> None:
    node.state_file.unlink()
    assert node.state().version_in(Slot.A) is None
    checks = node.agent().verify(Slot.A)
    assert [(check.kind, check.good) for check in checks] == [("root", True), ("hash", True), ("boot", True)]
    assert str(node.state().version_in(Slot.A)) == "1.0.0"


def test_a_forced_version_that_fell_back_is_refused_by_name(node: Node) -> None:
    node.agent().update(WISHES)
    node.start()
    node.start()
    with pytest.raises(NothingToDoError):
        node.agent().update(WISHES)
    with pytest.raises(DeniedVersionError):
        node.agent().update(UpdateRequest(version=Version.parse(NEWER)))
    with pytest.raises(NothingToDoError):
        node.agent().clear_denial(Version.parse("9.9.9"))


def test_what_is_in_the_spool_is_hashed_again_before_it_is_used(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.agent().prepare(WISHES)
    for path in (node.folder / "state" / "spool").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    node.agent().update(WISHES)
    assert node.holds(Slot.B, NEWER)


@pytest.mark.parametrize("length", [0, 1, 1000, -1])
def test_a_download_that_was_cut_is_resumed_where_it_ends(tmp_path: Path, length: int) -> None:
    """D70: by a new process, from any mirror: the name is the hash."""
    node = make_node(tmp_path)
    node.agent().prepare(WISHES)
    for path in (node.folder / "state" / "spool").iterdir():
        path.write_bytes(path.read_bytes()[:length])
    node.agent().update(WISHES)
    assert node.holds(Slot.B, NEWER)


def test_a_spooled_part_that_is_too_long_is_thrown_away(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.agent().prepare(WISHES)
    for path in (node.folder / "state" / "spool").iterdir():
        path.write_bytes(path.read_bytes() + b"more")
    for _ in range(4):
        try:
            node.agent().update(WISHES)
            break
        except ToolError:
            continue
    assert node.holds(Slot.B, NEWER)


def test_what_is_spooled_for_another_version_makes_room(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.agent().prepare(WISHES)
    old = {path.name for path in (node.folder / "state" / "spool").iterdir()}
    node.publish("1.2.0")
    node.agent().prepare(WISHES)
    assert old.isdisjoint({path.name for path in (node.folder / "state" / "spool").iterdir()})


def test_an_image_without_a_signed_size_that_unpacks_to_too_much_is_refused_before_a_write(
    tmp_path: Path,
) -> None:
    """D73: upstream's manifests do not state what an image unpacks to."""
    node = make_node(tmp_path, published=[])
    node.repository.synthesize("2.0.0").root.write_bytes(bytes((1 << 20) + 1))
    _publish_without_contents(node, "2.0.0")
    before = node.disk_digest()
    with pytest.raises(PreflightError, match="unpacks to more than its partition holds"):
        node.agent().update(WISHES)
    assert node.disk_digest() == before
    node.configure(spool=False)
    with pytest.raises(ToolError, match="larger than its"):
        node.agent().update(WISHES)
    assert node.flags(Slot.B) == Flags()
    assert node.holds(Slot.A, "1.0.0")
    hash_b = node.view().slots[Slot.B].hash
    with node.disk.open("rb") as disk:
        disk.seek(hash_b.offset)
        assert disk.read(4096) == bytes(4096)  # ROOT-B ends where HASH-B begins


def test_an_image_without_a_signed_size_is_installed_as_upstream_does(tmp_path: Path) -> None:
    node = make_node(tmp_path, published=[])
    _publish_without_contents(node, NEWER)
    node.agent().update(WISHES)
    assert node.holds(Slot.B, NEWER)
    assert len(node.agent().verify(Slot.B)) == 3
    with pytest.raises(NothingToDoError):  # again, as nothing shows that it is the same: it already waits
        node.agent().apply()


def _publish_without_contents(node: Node, version: str) -> None:
    """Publish a version and then a manifest that does not state what its images unpack to."""
    node.publish(version)
    _edit_update(node, version, contents=None, packs=None)


def _updates(node: Node) -> Sequence[Update]:
    with writing(node.repository.folder, OsMedium(), no_secrets, now=node.repository.now) as session:
        return session.manifest.updates


def _edit_update(node: Node, version: str, **facts: Any) -> None:
    """Sign a manifest in which a version is described differently."""
    with writing(node.repository.folder, OsMedium(), no_secrets, now=node.repository.now) as session:
        updates = tuple(
            replace(update, **facts) if str(update.version) == version else update
            for update in session.manifest.updates
        )
        change = Change(action="edit", subject="the manifest")
        session.commit(replace(session.manifest, updates=updates), [], now(), change)
