"""A hostile repository against a real node, through the real command line.

Whatever it serves, the command ends with its documented exit status and one clear message, the disk is bit
for bit unchanged (while streaming: the running slot is, and the other one can never boot), nothing is marked,
and when the repository is honest again the update succeeds.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pytest
import zstandard

from fixtures.os.synthetic import synthetic_image
from signpost.gptprio import Flags
from signpost.sets import Slot
from tests.support.http_server import (
    HttpServer,
    answer,
    endless,
    plain,
    raw,
    redirect,
    stalled,
    unused_port,
)
from tests.support.nodes import CONFIRMED, NEWER, NEWEST, make_node
from tests.support.patience import stretched
from tests.support.repositories import ARCH, VARIANT
from tests.support.tuf_repositories import TufRepository, in_days, signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.nodes import CommandResult, Node

REFUSED, UNREACHABLE = 4, 5
TIMESTAMP = "metadata/timestamp.json"
SIZES = {"boot": 128 << 10, "root": 256 << 10, "hash": 16 << 10}
ROLES = tuple(SIZES)


@cache
def image(role: str) -> bytes:
    """Return the raw image of the update."""
    return synthetic_image(role, NEWER, size=SIZES[role])


@cache
def packed(role: str) -> bytes:
    """Return the image as it is published."""
    return zstandard.ZstdCompressor().compress(image(role))


def manifest(images: dict[str, str] | None = None, *, version: str = NEWER) -> bytes:
    """Return the manifest that offers the update; ``images`` gives other names to some images."""
    contents = {
        role: {"size": SIZES[role], "sha256": hashlib.sha256(image(role)).hexdigest()} for role in ROLES
    }
    update = {
        "variant": VARIANT,
        "arch": ARCH,
        "version": version,
        "max_version": version,
        "waves": {},
        "images": {role: f"{role}.zst" for role in ROLES} | (images or {}),
        "contents": contents,
    }
    return json.dumps({"updates": [update], "migrations": {}}).encode()


@dataclass(kw_only=True)
class Scene:
    """A node, the server that it uses, and the keys of its repository."""

    node: Node
    server: HttpServer
    repository: TufRepository

    @property
    def files(self) -> dict[str, bytes]:
        """The files that are served."""
        return self.repository.files

    def image_path(self, role: str) -> str:
        """Return where an image is served."""
        return TufRepository.target_path(f"{role}.zst", packed(role))

    def update(self, *words: str) -> CommandResult:
        """Run ``updog update``."""
        return self.node.updog("update", *words)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Yield a node that runs 1.0.0 and an honest repository that offers 1.1.0."""
    targets = {"manifest.json": manifest()} | {f"{role}.zst": packed(role) for role in ROLES}
    repository = TufRepository(targets)
    node = make_node(tmp_path, published=())
    (node.folder / "root.json").write_bytes(repository.first_root)
    for name in ("tuf", "manifest"):
        shutil.rmtree(node.folder / "state" / name, ignore_errors=True)
    with HttpServer(repository.files) as server:
        node.configure(
            metadata_base_url=server.url("metadata/"),
            targets_base_url=server.url("targets/"),
            download_tries=1,
            stall_timeout=stretched(1),
        )
        yield Scene(node=node, server=server, repository=repository)


# -- the attacks ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Something that a repository can do to a node, and the node's error."""

    name: str
    do: Callable[[Scene], None]
    status: int
    says: str
    content: bool = False

    def __str__(self) -> str:
        return self.name


def _wrong_hash(role: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        data = bytearray(packed(role))
        data[-1] ^= 1
        scene.files[scene.image_path(role)] = bytes(data)

    return do


def _too_short(role: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        scene.files[scene.image_path(role)] = packed(role)[:-7]

    return do


def _endless(role: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        scene.server.behave(scene.image_path(role), endless())

    return do


def _another_image(role: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        other = zstandard.ZstdCompressor().compress(b"the attacker's own system" * 1000)
        scene.files[scene.image_path(role)] = other

    return do


def _gone(role: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        del scene.files[scene.image_path(role)]

    return do


def _cut_off(role: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        scene.server.behave(scene.image_path(role), plain(cut=len(packed(role)) - 9))

    return do


def _held(role: str) -> Callable[[Scene], None]:
    def do(scene: Scene) -> None:
        scene.server.behave(scene.image_path(role), stalled(after=5))

    return do


def _endless_metadata(scene: Scene) -> None:
    scene.server.behave(TIMESTAMP, endless(first=b""))


def _expired(scene: Scene) -> None:
    scene.repository.publish(expires=in_days(-1))


def _rolled_back(scene: Scene) -> None:
    old = scene.repository.snapshot_of_files()
    scene.repository.publish()
    assert scene.node.updog("check-update").status == 0
    scene.files.update(old)


def _unsigned(scene: Scene) -> None:
    scene.repository.resign(TIMESTAMP, [])


def _signed_by_a_stranger(scene: Scene) -> None:
    scene.repository.resign("metadata/1.targets.json", [signer("a stranger")])


def _mixed(scene: Scene) -> None:
    old = scene.files["metadata/1.snapshot.json"]
    scene.repository.publish()
    scene.files["metadata/2.snapshot.json"] = old


def _missing_target(scene: Scene) -> None:
    scene.repository.put("manifest.json", manifest({"root": "nowhere.zst"}))
    scene.repository.publish()


def _signed_but_other_content(scene: Scene) -> None:
    """Sign an image that does not unpack to what the signed manifest states."""
    other = zstandard.ZstdCompressor().compress(bytes(SIZES["root"]))
    scene.repository.put("root.zst", other)
    scene.repository.publish()


def _bomb(scene: Scene) -> None:
    """Sign an image that unpacks to more than fits its partition."""
    scene.repository.put("root.zst", zstandard.ZstdCompressor().compress(bytes(64 << 20)))
    scene.repository.publish()


def _no_archive(scene: Scene) -> None:
    """Sign an image that is not a compressed image."""
    scene.repository.put("boot.zst", random.Random(1).randbytes(5000))
    scene.repository.publish()


def _down(scene: Scene) -> None:
    scene.node.configure(metadata_base_url=f"http://127.0.0.1:{unused_port()}/")


def _error(scene: Scene) -> None:
    scene.server.behave("metadata/2.root.json", answer(500))


def _portal(scene: Scene) -> None:
    """Answer every request with a page, as a captive portal does."""
    page = answer(200, {"Content-Type": "text/html"}, b"<html>sign in</html>")
    for path in ("metadata/2.root.json", TIMESTAMP):
        scene.server.behave(path, page)


def _loop(scene: Scene) -> None:
    scene.server.behave(TIMESTAMP, redirect(f"/{TIMESTAMP}"))


def _gibberish(scene: Scene) -> None:
    scene.server.behave(TIMESTAMP, raw(b"\0" * 100))


OF_METADATA = [
    Attack(name="endless metadata", do=_endless_metadata, status=REFUSED, says="sent more than its"),
    Attack(name="expired", do=_expired, status=REFUSED, says="expired"),
    Attack(name="rolled back", do=_rolled_back, status=REFUSED, says="version"),
    Attack(name="unsigned", do=_unsigned, status=REFUSED, says="signed by 0/1 keys"),
    Attack(name="a stranger's", do=_signed_by_a_stranger, status=REFUSED, says="signed by 0/1 keys"),
    Attack(name="mix-and-match", do=_mixed, status=REFUSED, says="2.snapshot.json: Observed"),
    Attack(name="missing target", do=_missing_target, status=REFUSED, says="does not list 'nowhere.zst'"),
    Attack(
        name="captive portal", do=_portal, status=UNREACHABLE, says="2.root.json is answered with a web page"
    ),
    Attack(name="down", do=_down, status=UNREACHABLE, says="refused"),
    Attack(name="server error", do=_error, status=UNREACHABLE, says="HTTP 500"),
    Attack(name="redirect loop", do=_loop, status=UNREACHABLE, says="redirects"),
    Attack(name="no HTTP", do=_gibberish, status=UNREACHABLE, says="timestamp.json"),
]

OF_CONTENT = [
    attack
    for role in ROLES
    for attack in (
        Attack(name=f"wrong hash of {role}", do=_wrong_hash(role), status=REFUSED, says=f"{role}.zst"),
        Attack(name=f"wrong length of {role}", do=_too_short(role), status=REFUSED, says=f"{role}.zst"),
        Attack(name=f"endless {role}", do=_endless(role), status=REFUSED, says="sent more than its"),
        Attack(name=f"another {role}", do=_another_image(role), status=REFUSED, says=f"{role}.zst"),
        Attack(name=f"no {role}", do=_gone(role), status=UNREACHABLE, says="HTTP 404"),
        Attack(name=f"{role} cut off", do=_cut_off(role), status=UNREACHABLE, says="byte"),
    )
]

OF_CONTENT.append(Attack(name="root held", do=_held("root"), status=UNREACHABLE, says="timed out"))

OF_A_PUBLISHER = [
    Attack(name="other content", do=_signed_but_other_content, status=REFUSED, says="signed are"),
    Attack(name="a bomb", do=_bomb, status=REFUSED, says="more than|larger than"),
    Attack(name="no archive", do=_no_archive, status=REFUSED, says="not a well-formed compressed image"),
]


def assert_one_clear_message(said: CommandResult, attack: Attack) -> None:
    """Check the exit status, and that stderr is one message with cause and next step."""
    lines = said.err.splitlines()
    messages = [line for line in lines if line.startswith("updog: ")]
    assert (said.status, len(messages)) == (attack.status, 1), said.err
    assert lines[-2:] == [messages[0], lines[-1]]
    assert lines[-1].startswith("  next: ")
    assert any(part in messages[0] for part in attack.says.split("|")), messages[0]
    for word in ("Traceback", "internal error", "object at 0x", "Update applied"):
        assert word not in said.err + said.out


def assert_nothing_marked(node: Node) -> None:
    """Check that the node has recorded no update, and that only slot A can boot."""
    state = node.state()
    assert (state.pending, state.denied) == (None, {})
    assert Slot.B not in state.slots
    assert node.codes() in ([], ["install-failed"])  # the second after an update had been selected
    assert node.flags(Slot.A) == CONFIRMED
    assert node.flags(Slot.B) == Flags()
    assert node.view().next is Slot.A


def assert_recovers(scene: Scene, honest: dict[str, bytes]) -> None:
    """Check that the same node takes the update when the repository is honest again."""
    scene.files.update(honest)
    scene.server.behave_well()
    for name, content in {"manifest.json": manifest()}.items() | {
        (f"{role}.zst", packed(role)) for role in ROLES
    }:
        scene.repository.put(name, content)
    scene.repository.publish(expires=in_days(30))
    scene.node.configure(metadata_base_url=scene.server.url("metadata/"))
    said = scene.update()
    assert said.status == 0, said.err
    assert scene.node.view().next is Slot.B
    assert all(scene.node.content(Slot.B, role, SIZES[role]) == image(role) for role in ROLES)


# -- with the spool: nothing is touched ----------------------------------------------------------------


@pytest.mark.parametrize("attack", [*OF_METADATA, *OF_CONTENT], ids=str)
def test_a_refused_update_leaves_the_disk_bit_for_bit_as_it_was(scene: Scene, attack: Attack) -> None:
    """D46 to D52, D59 to D64: the eight refusals, and network faults with the same effect."""
    honest = scene.repository.snapshot_of_files()
    attack.do(scene)
    before = scene.node.disk_digest()
    assert_one_clear_message(scene.update(), attack)
    assert scene.node.disk_digest() == before
    assert_nothing_marked(scene.node)
    assert_recovers(scene, honest)


@pytest.mark.parametrize("attack", [*OF_A_PUBLISHER[1:], *OF_METADATA[:2], *OF_CONTENT[:2]], ids=str)
def test_preparing_an_update_refuses_the_same_attacks(scene: Scene, attack: Attack) -> None:
    """D51, D93: signed nonsense is found by unpacking without writing."""
    attack.do(scene)
    before = scene.node.disk_digest()
    assert_one_clear_message(scene.node.updog("prepare"), attack)
    assert scene.node.disk_digest() == before
    assert_nothing_marked(scene.node)


@pytest.mark.parametrize("attack", OF_A_PUBLISHER[1:], ids=str)
def test_signed_nonsense_is_not_written_to_the_disk(scene: Scene, attack: Attack) -> None:
    """D73, D93."""
    honest = scene.repository.snapshot_of_files()
    attack.do(scene)
    before = scene.node.disk_digest()
    assert_one_clear_message(scene.update(), attack)
    assert scene.node.disk_digest() == before
    assert_nothing_marked(scene.node)
    assert_recovers(scene, honest)


@pytest.mark.parametrize("attack", OF_METADATA, ids=str)
def test_a_check_refuses_the_same_attacks_and_writes_nothing(scene: Scene, attack: Attack) -> None:
    """D46 to D52: all but the image that is not listed, which a check does not request."""
    attack.do(scene)
    before = scene.node.disk_digest()
    said = scene.node.updog("check-update")
    if attack.do is _missing_target:
        assert said.status == 0
    else:
        assert_one_clear_message(said, attack)
    assert scene.node.disk_digest() == before
    assert_nothing_marked(scene.node)


# -- without it: the running slot is safe --------------------------------------------------------------


@pytest.mark.parametrize("attack", [*OF_METADATA, *OF_CONTENT, *OF_A_PUBLISHER], ids=str)
def test_while_streaming_the_running_slot_is_safe_and_the_other_never_boots(
    scene: Scene, attack: Attack
) -> None:
    """D46 to D52, D59 to D64: the images are written to the slot, which cannot boot until it is verified."""
    scene.node.configure(spool=False)
    honest = scene.repository.snapshot_of_files()
    attack.do(scene)
    running = _slot_a(scene.node)
    assert_one_clear_message(scene.update(), attack)
    assert _slot_a(scene.node) == running
    assert_nothing_marked(scene.node)
    assert scene.node.view().faults == ()
    assert_recovers(scene, honest)


@pytest.mark.parametrize("role", ROLES)
def test_while_streaming_a_slot_that_could_boot_is_given_up_for_good(scene: Scene, role: str) -> None:
    """D01, D51: a slot with half an image must not be what the bootloader falls back to."""
    scene.node.configure(spool=False)
    assert scene.update().status == 0
    assert scene.node.boot().status == 0
    assert scene.node.updog("confirm").status == 0
    assert scene.node.flags(Slot.A).bootable
    scene.repository.put("manifest.json", manifest(version=NEWEST))
    scene.repository.put(f"{role}.zst", zstandard.ZstdCompressor().compress(bytes(SIZES[role])))
    scene.repository.publish()
    assert scene.update().status == REFUSED
    assert scene.node.flags(Slot.A) == Flags()
    assert scene.node.view().next is Slot.B
    assert (scene.node.state().pending, list(scene.node.state().slots)) == (None, [Slot.B])


def _slot_a(node: Node) -> dict[str, bytes]:
    """Return the content of the running slot's partitions."""
    slot = node.view().slots[Slot.A]
    return {role: node.content(Slot.A, role, getattr(slot, role).size) for role in ROLES}


@pytest.mark.parametrize("role", ROLES)
def test_while_streaming_an_image_that_is_not_there_is_found_before_the_slot_is_given_up(
    scene: Scene, role: str
) -> None:
    scene.node.configure(spool=False)
    del scene.files[scene.image_path(role)]
    before = scene.node.disk_digest()
    assert scene.update().status == UNREACHABLE
    assert scene.node.disk_digest() == before


# -- what an honest repository gets --------------------------------------------------------------------


@pytest.mark.parametrize("spool", [True, False])
def test_an_honest_repository_gets_its_update_onto_the_node(scene: Scene, spool: bool) -> None:  # noqa: FBT001
    scene.node.configure(spool=spool)
    assert_recovers(scene, {})


def test_a_check_without_news_makes_exactly_two_requests(scene: Scene) -> None:
    assert scene.node.updog("check-update").status == 0
    scene.server.log.clear()
    assert scene.node.updog("check-update").status == 0
    assert scene.server.paths == ["metadata/2.root.json", TIMESTAMP]


@pytest.mark.parametrize("send", [True, False])
def test_every_request_of_an_update_says_who_asks_or_none_does(scene: Scene, send: bool) -> None:  # noqa: FBT001
    scene.node.configure(send_query=send, seed=1234)
    assert scene.update().status == 0
    wanted = {"seed": "1234", "version": "1.0.0"} if send else {}
    assert len(scene.server.log) == 4 + 1 + len(ROLES)
    assert all(request.query.items() >= wanted.items() for request in scene.server.log)
    assert send or all(request.query == {} for request in scene.server.log)
    images = [request for request in scene.server.log if ".zst" in request.path or ".lz4" in request.path]
    assert images
    assert all(("target" in request.query) == (send and request in images) for request in scene.server.log)


def test_bytes_from_before_a_broken_connection_are_not_fetched_again(scene: Scene) -> None:
    """D60, D70: each run is a new agent; the second asks for the rest, to the byte."""
    path, half = scene.image_path("root"), len(packed("root")) // 2
    scene.server.behave(path, plain(cut=half), plain())
    assert scene.update().status == UNREACHABLE
    assert scene.update().status == 0
    assert [request.start for request in scene.server.asked(path)] == [0, half]
    assert sum(request.sent for request in scene.server.asked(path)) == len(packed("root"))


def test_what_was_prepared_is_not_fetched_again(scene: Scene) -> None:
    assert scene.node.updog("prepare").status == 0
    scene.server.log.clear()
    assert scene.update().status == 0
    assert scene.server.paths == ["metadata/2.root.json", TIMESTAMP]


def test_a_second_mirror_finishes_what_a_bad_first_one_began(scene: Scene) -> None:
    """D65, D70: bad data is discarded, good parts are used."""
    path = scene.image_path("root")
    bad = HttpServer(dict(scene.files))
    bad.files[path] = bytes(len(packed("root")))
    good_part = scene.image_path("hash")
    with bad:
        scene.node.configure(targets_base_url=bad.url("targets/"))
        assert scene.update().status == REFUSED
        del bad.files[path]
        bad.files[path] = packed("root")
        bad.behave(good_part, plain(cut=100))
        assert scene.update().status == UNREACHABLE
    scene.node.configure(targets_base_url=scene.server.url("targets/"))
    assert scene.update().status == 0
    assert not scene.server.asked(path)
    assert [request.start for request in scene.server.asked(good_part)] == [100]


# -- time ----------------------------------------------------------------------------------------------


def test_expired_metadata_blocks_neither_restart_nor_confirm_nor_return(scene: Scene) -> None:
    """D55: when an update is in its slot, the repository is no longer needed."""
    assert scene.update().status == 0
    scene.repository.publish(expires=in_days(-1))
    scene.server.log.clear()
    assert scene.node.updog("update-revert").status == 0
    assert scene.node.updog("update-apply").status == 0
    assert scene.node.boot().status == 0
    assert scene.node.updog("confirm").status == 0
    assert scene.node.flags(Slot.B).successful
    assert scene.server.log == []
    assert scene.node.updog("check-update").status == REFUSED


def test_a_node_remembers_when_its_repository_was_signed(scene: Scene) -> None:
    """D56: expired metadata does not become valid again when the clock is set back."""
    assert scene.node.updog("check-update").status == 0
    document = json.loads(scene.node.state_file.read_text(encoding="utf-8"))
    document["signed_time"] = in_days(31).isoformat()
    scene.node.state_file.write_text(json.dumps(document), encoding="utf-8")
    said = scene.update()
    assert said.status == REFUSED
    assert "the repository was signed on" in said.err


def test_the_roots_of_years_are_walked_on_the_way_to_an_update(scene: Scene) -> None:
    """D53."""
    scene.repository.rotate("root", times=9)
    scene.repository.rotate("targets")
    scene.repository.publish()
    assert scene.update().status == 0
    assert len([path for path in scene.server.paths if path.endswith("root.json")]) == 11


# -- for scripts ---------------------------------------------------------------------------------------


def test_json_ends_with_the_error_by_code_and_status(scene: Scene) -> None:
    _wrong_hash("hash")(scene)
    said = scene.update("--json")
    assert said.status == REFUSED
    error = said.events[-1]["error"]
    assert (error["code"], error["status"]) == ("digest", REFUSED)
