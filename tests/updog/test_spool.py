"""The spool: whole images on the node, continued after any end, trusted only after hashing."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from signpost.errors import MediumError
from signpost.medium import OsMedium
from tests.support.http_server import HttpServer, plain
from updog.errors import DigestError, EndlessDataError, UnreachableError
from updog.image.index import Span
from updog.image.region import IO_BYTES
from updog.spool import Spool
from updog.transport import HttpTransport, TransportSettings
from updog.trust import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMAGE = random.Random(70).randbytes(50_000)
NAME = "image.zst"


def target_of(content: bytes, name: str = NAME) -> Target:
    return Target(name=name, length=len(content), sha256=hashlib.sha256(content).hexdigest())


TARGET = target_of(IMAGE)


class Full(OsMedium):
    """A file system with room for so many bytes more."""

    def __init__(self, room: int) -> None:
        self._room = room

    def write_at(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        if len(data) > self._room:
            raise MediumError("no space left on device")
        self._room -= len(data)
        super().write_at(descriptor, data, offset)


class Counted:
    """Adds up the counts that it gets."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, count: int) -> None:
        self.total += count


def of_bytes(content: bytes, size: int = 1000) -> Callable[[Target, int], Iterator[bytes]]:
    """Return a source that has these bytes, in blocks."""

    def fetch(_target: Target, start: int) -> Iterator[bytes]:
        return (content[place : place + size] for place in range(start, len(content), size))

    return fetch


def nothing(_target: Target, start: int) -> Iterator[bytes]:
    """Act as a source that must not be used."""
    raise AssertionError(f"asked from byte {start}")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", OsMedium())


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "spool" / TARGET.sha256


def test_what_was_fetched_is_there_and_nothing_of_it_is_missing(spool: Spool, part: Path) -> None:
    assert spool.missing(TARGET) == len(IMAGE)
    counted = Counted()
    spool.fetch(TARGET, of_bytes(IMAGE), counted)
    assert part.read_bytes() == IMAGE
    assert b"".join(spool.blocks(TARGET)) == IMAGE
    assert (spool.missing(TARGET), counted.total) == (0, len(IMAGE))


def test_what_is_there_is_hashed_and_not_asked_for_again(spool: Spool) -> None:
    spool.fetch(TARGET, of_bytes(IMAGE), Counted())
    counted = Counted()
    spool.fetch(TARGET, nothing, counted)
    assert counted.total == len(IMAGE)


@pytest.mark.parametrize("there", [0, 1, 999, 25_000, 49_999])
def test_a_part_is_continued_where_it_ends_by_a_new_process_and_another_mirror(
    spool: Spool, part: Path, there: int
) -> None:
    """D70: to the byte, whichever run left it."""
    part.parent.mkdir()
    part.write_bytes(IMAGE[:there])
    assert spool.missing(TARGET) == len(IMAGE) - there
    counted = Counted()
    with HttpServer({NAME: IMAGE}) as mirror:
        transport = HttpTransport(TransportSettings(tries=1))

        def fetch(target: Target, start: int) -> Iterator[bytes]:
            return transport.stream(mirror.url(NAME), limit=target.length, start=start)

        spool.fetch(TARGET, fetch, counted)
        assert [request.sent for request in mirror.log] == [len(IMAGE) - there]
    assert part.read_bytes() == IMAGE
    assert counted.total == len(IMAGE)


def test_what_came_before_a_break_is_kept(spool: Spool) -> None:
    """D60."""
    with HttpServer({NAME: IMAGE}) as mirror:
        transport = HttpTransport(TransportSettings(tries=1))

        def fetch(target: Target, start: int) -> Iterator[bytes]:
            return transport.stream(mirror.url(NAME), limit=target.length, start=start)

        mirror.behave(NAME, plain(cut=12_345), plain(cut=20_000), plain())
        for missing in (len(IMAGE) - 12_345, len(IMAGE) - 32_345):
            with pytest.raises(UnreachableError):
                spool.fetch(TARGET, fetch, Counted())
            assert spool.missing(TARGET) == missing
        spool.fetch(TARGET, fetch, Counted())
        assert sum(request.sent for request in mirror.log) == len(IMAGE)


@pytest.mark.parametrize(
    "content",
    [IMAGE[:-1] + b"?", IMAGE[:-1], IMAGE + b"!", b""],
    ids=["wrong hash", "too short", "too long", "nothing"],
)
def test_what_is_not_what_was_signed_is_thrown_away(spool: Spool, part: Path, content: bytes) -> None:
    """D51."""
    with pytest.raises(DigestError, match=NAME):
        spool.fetch(TARGET, of_bytes(content), Counted())
    assert not part.exists()


def test_endless_data_is_thrown_away(spool: Spool, part: Path) -> None:
    """D49."""

    def fetch(_target: Target, _start: int) -> Iterator[bytes]:
        yield IMAGE
        raise EndlessDataError("goes on")

    with pytest.raises(EndlessDataError):
        spool.fetch(TARGET, fetch, Counted())
    assert not part.exists()


@pytest.mark.parametrize("there", [b"x" + IMAGE[1:25_000], IMAGE[:24_999] + b"x", bytes(25_000)])
def test_a_damaged_part_costs_one_try_and_the_next_starts_again(
    spool: Spool, part: Path, there: bytes
) -> None:
    """D76: nothing stored here is trusted."""
    part.parent.mkdir()
    part.write_bytes(there)
    with pytest.raises(DigestError):
        spool.fetch(TARGET, of_bytes(IMAGE), Counted())
    spool.fetch(TARGET, of_bytes(IMAGE), Counted())
    assert part.read_bytes() == IMAGE


def test_a_part_that_is_too_long_is_thrown_away_without_reading_it(spool: Spool, part: Path) -> None:
    part.parent.mkdir()
    part.write_bytes(IMAGE + b"!")
    assert spool.missing(TARGET) == 0
    with pytest.raises(DigestError, match=f"part of {NAME} is longer"):
        spool.fetch(TARGET, nothing, Counted())
    assert not part.exists()


def test_a_full_file_system_keeps_what_came(tmp_path: Path, part: Path) -> None:
    """D71: the next try goes on from there."""
    spool = Spool(tmp_path / "spool", Full(30_500))
    with pytest.raises(MediumError, match="no space"):
        spool.fetch(TARGET, of_bytes(IMAGE), Counted())
    assert part.read_bytes() == IMAGE[:30_000]


def test_what_was_damaged_after_it_was_fetched_is_noticed_when_it_is_used(spool: Spool, part: Path) -> None:
    """D77."""
    spool.fetch(TARGET, of_bytes(IMAGE), Counted())
    part.write_bytes(IMAGE[:-1] + b"?")
    with pytest.raises(DigestError):
        b"".join(spool.blocks(TARGET))
    part.write_bytes(IMAGE[:-1])
    with pytest.raises(DigestError):
        b"".join(spool.blocks(TARGET))


def test_what_is_not_here_cannot_be_used(spool: Spool) -> None:
    with pytest.raises(MediumError, match=TARGET.sha256):
        b"".join(spool.blocks(TARGET))


def test_blocks_are_bounded(spool: Spool) -> None:
    content = bytes(2 * IO_BYTES + 1)
    target = target_of(content)
    spool.fetch(target, of_bytes(content, 1 << 20), Counted())
    assert [len(block) for block in spool.blocks(target)] == [IO_BYTES, IO_BYTES, 1]


def test_clearing_removes_everything_but_what_is_still_wanted(spool: Spool, tmp_path: Path) -> None:
    other = target_of(b"other", "other")
    spool.fetch(TARGET, of_bytes(IMAGE), Counted())
    spool.fetch(other, of_bytes(b"other"), Counted())
    (tmp_path / "spool" / "leftover").write_bytes(b"of another version")
    spool.clear(keep=frozenset({other.sha256}))
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [other.sha256]
    spool.clear()
    assert list((tmp_path / "spool").iterdir()) == []


def test_clearing_a_spool_that_was_never_used_is_nothing(spool: Spool, tmp_path: Path) -> None:
    spool.clear()
    assert not (tmp_path / "spool").exists()


def test_two_targets_with_the_same_content_are_one_file(spool: Spool) -> None:
    spool.fetch(TARGET, of_bytes(IMAGE), Counted())
    spool.fetch(target_of(IMAGE, "renamed.zst"), nothing, Counted())


def test_an_empty_target_is_there_at_once(spool: Spool) -> None:
    empty = target_of(b"", "empty")
    spool.fetch(empty, nothing, Counted())
    assert b"".join(spool.blocks(empty)) == b""


# -- the folder is private to the node ---------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["victim", "nowhere"])
def test_a_link_in_the_spool_is_never_written_through(
    spool: Spool, part: Path, tmp_path: Path, victim: str
) -> None:
    part.parent.mkdir()
    (tmp_path / "victim").write_bytes(b"of somebody else")
    for name in (TARGET.sha256, f"{TARGET.sha256}.pieces"):
        (part.parent / name).symlink_to(tmp_path / victim)
    for use in (
        lambda: spool.fetch(TARGET, of_bytes(IMAGE), Counted()),
        lambda: list(spool.blocks(TARGET)),
        lambda: spool.small(TARGET),
        lambda: spool.keep_piece(TARGET, 0, b"piece"),
        lambda: spool.piece(TARGET, Span(offset=0, length=1)),
        lambda: spool.flush_pieces([TARGET]),
    ):
        with pytest.raises(MediumError, match="is not a regular file"):
            use()
    assert (tmp_path / "victim").read_bytes() == b"of somebody else"
    assert not (tmp_path / "nowhere").exists()


def test_a_spool_that_others_can_write_is_neither_filled_nor_emptied(spool: Spool, part: Path) -> None:
    part.parent.mkdir()
    (part.parent / "theirs").write_bytes(b"of somebody else")
    part.parent.chmod(0o777)
    with pytest.raises(MediumError, match="can be written by everyone"):
        spool.fetch(TARGET, of_bytes(IMAGE), Counted())
    with pytest.raises(MediumError, match="can be written by everyone"):
        spool.clear()
    assert [path.name for path in part.parent.iterdir()] == ["theirs"]


def test_a_folder_in_the_spool_is_somebody_elses_and_stays(spool: Spool, tmp_path: Path) -> None:
    """A file system of its own for the spool has a folder lost+found."""
    (tmp_path / "spool/lost+found").mkdir(parents=True)
    (tmp_path / "spool/old").write_bytes(b"old")
    spool.clear()
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["lost+found"]
