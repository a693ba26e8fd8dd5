"""The steps of an install, one by one: only fetching fetches, only writing writes, a plan is a value."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from signpost.medium import opened
from signpost.progress import SilentReporter
from signpost.sets import ImageKind, Slot
from tests.support.http_server import HttpServer
from tests.support.nodes import NEWER, RUNNING, UnflushedMedium, images_of, make_node, now
from tests.support.repositories import ARCH, VARIANT
from updog.config import load
from updog.errors import DigestError, ImageError
from updog.image.plan import ChunkSource
from updog.image.region import Region
from updog.installing.context import InstallContext, RunningImage, SeekableImage
from updog.installing.image_index import fetch_index
from updog.installing.scan import scan_slots
from updog.installing.seekable import decide, plan_seekable
from updog.preflight import Placement
from updog.repository import Repository, http_settings
from updog.spool import Spool
from updog.update_metadata.content import Content
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.nodes import Node
    from updog.image.plan import ChunkPlan

KIND = ImageKind.ROOT
LOCAL_ONLY = frozenset({ChunkSource.IN_PLACE, ChunkSource.ZEROS, ChunkSource.ACTIVE, ChunkSource.SPOOL})


class Scene:
    """A node whose ROOT is installed step by step, and the server that it fetches from."""

    def __init__(self, node: Node, server: HttpServer) -> None:
        self.node, self.server = node, server
        config = load(node.config)
        self.medium = UnflushedMedium()
        self.spool = node.folder / "spool"
        settings = http_settings(config, Version.parse(RUNNING))
        self.repository = Repository(config, settings, medium=self.medium, now=now(), latest_known=None)
        self.manifest = self.repository.manifest()
        self.context = InstallContext(
            repository=self.repository, spool=Spool(self.spool, self.medium), reporter=SilentReporter()
        )

    @contextmanager
    def image(self, *, delta: bool = True) -> Iterator[SeekableImage]:
        """Yield the newer ROOT and its places, while the disk is open."""
        update = self.manifest.find(VARIANT, ARCH, Version.parse(NEWER))
        before = self.manifest.find(VARIANT, ARCH, Version.parse(RUNNING))
        assert update
        assert update.packs
        assert update.contents
        assert before
        assert before.contents
        pack, view = update.packs.of(KIND), self.node.view()
        partitions = {slot: view.slots[slot].partition(KIND) for slot in Slot}
        with opened(self.medium, str(self.node.disk), write=True) as descriptor:
            regions = {slot: Region.of(self.medium, descriptor, part) for slot, part in partitions.items()}
            yield SeekableImage(
                placement=Placement(
                    kind=KIND,
                    target=self.repository.target(update.images.of(KIND)),
                    content=update.contents.of(KIND),
                    partition=partitions[Slot.B],
                ),
                region=regions[Slot.B],
                pack=pack,
                running=RunningImage(
                    region=regions[Slot.A],
                    content=before.contents.of(KIND),
                    delta=pack.deltas[Version.parse(RUNNING)] if delta else None,
                ),
            )

    @property
    def sent(self) -> int:
        """Bytes of targets that the server sent so far, the manifest apart."""
        return sum(
            request.sent
            for request in self.server.log
            if request.path.startswith("targets/") and not request.path.endswith("manifest.json")
        )

    @property
    def storage(self) -> tuple[str, dict[str, bytes]]:
        """What is on the disk and in the spool."""
        return self.node.disk_digest(), {path.name: path.read_bytes() for path in self.spool.glob("*")}

    def is_installed(self) -> bool:
        """Tell whether the inactive slot has the newer ROOT."""
        wanted = images_of(self.node.repository, NEWER)[KIND]
        return self.node.content(Slot.B, KIND, len(wanted)) == wanted


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    node = make_node(tmp_path)
    folder = node.repository.folder
    files = [path for place in ("metadata", "targets") for path in (folder / place).iterdir()]
    with HttpServer({str(path.relative_to(folder)): path.read_bytes() for path in files}) as server:
        node.configure(metadata_base_url=server.url("metadata/"), targets_base_url=server.url("targets/"))
        yield Scene(node, server)


def _sources(plan: ChunkPlan) -> frozenset[ChunkSource]:
    return frozenset(plan.sources)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "fingerprints"])
def test_fetching_counts_its_bytes_and_what_it_kept_is_not_fetched_again(
    scene: Scene,
    delta: bool,  # noqa: FBT001 - parametrized
) -> None:
    disk = scene.node.disk_digest()
    with scene.image(delta=delta) as image:
        fetched = fetch_index(scene.context, image)
        assert (fetched.wire, bool(fetched.delta), bool(fetched.fingerprints)) == (
            scene.sent,
            delta,
            not delta,
        )
        again = fetch_index(scene.context, image)
        assert again.wire == 0 < fetched.wire == scene.sent
        assert (again.index, again.delta, again.fingerprints) == (
            fetched.index,
            fetched.delta,
            fetched.fingerprints,
        )
    assert scene.node.disk_digest() == disk
    assert fetched.spool_files.issuperset(path.name for path in scene.spool.iterdir())


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "fingerprints"])
def test_looking_and_deciding_fetch_and_write_nothing(
    scene: Scene,
    delta: bool,  # noqa: FBT001 - parametrized
) -> None:
    with scene.image(delta=delta) as image:
        fetched = fetch_index(scene.context, image)
        sent, storage = scene.sent, scene.storage
        scan = scan_slots(scene.context, image, fetched)
        plan = decide(scene.context, image, fetched, scan)
        assert plan == decide(scene.context, image, fetched, scan)
        assert plan.estimate.total == fetched.wire + plan.chunks.wire
        assert plan.spool_files == fetched.spool_files
        assert (scene.sent, scene.storage) == (sent, storage)
    assert ChunkSource.ACTIVE in _sources(plan.chunks)


def test_what_begins_is_fetched_once_and_writing_fetches_the_rest_of_the_plan(scene: Scene) -> None:
    with scene.image(delta=False) as image:
        plan = plan_seekable(scene.context, image)
        index, disk = scene.sent, scene.node.disk_digest()
        begun = plan.begin()
        assert scene.sent - index == plan.chunks.requests[0].span.length
        assert scene.node.disk_digest() == disk
        assert isinstance(begun.write(), Content)
        assert scene.sent - index == plan.chunks.wire
    assert scene.is_installed()


def test_what_is_kept_is_written_without_the_server(scene: Scene) -> None:
    with scene.image() as image:
        plan = plan_seekable(scene.context, image)
        index, disk = scene.sent, scene.node.disk_digest()
        kept = plan.keep()
        assert scene.sent - index == plan.chunks.wire
        assert (kept.estimate.fetch, scene.node.disk_digest()) == (0, disk)
        assert _sources(kept.chunks) <= LOCAL_ONLY
        scene.server.files.clear()
        assert isinstance(kept.begin().write(), Content)
    assert scene.is_installed()


def test_a_piece_that_decayed_in_the_spool_is_planned_to_be_fetched(scene: Scene) -> None:
    with scene.image(delta=False) as image:
        plan = plan_seekable(scene.context, image)
        plan.keep()
        pieces = scene.spool / scene.context.spool.pieces_name(plan.fetched.pack)
        first = plan.chunks.requests[0]
        data = bytearray(pieces.read_bytes())
        data[first.span.offset] ^= 1
        pieces.write_bytes(data)
        again = plan_seekable(scene.context, image)
        assert again.chunks.fetched(ChunkSource.PACK) == set(first.items)


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "fingerprints"])
def test_what_the_running_slot_does_not_have_gets_a_plan_that_does_not_ask_it_again(
    scene: Scene,
    delta: bool,  # noqa: FBT001 - parametrized
) -> None:
    with scene.image(delta=delta) as image:
        plan = plan_seekable(scene.context, image)
        for at in range(0, 200_000, 4096):
            scene.node.damage(Slot.A, KIND, at)
        rest = plan.write()
        assert not isinstance(rest, Content)
        assert _sources(rest.chunks) == {ChunkSource.IN_PLACE, ChunkSource.PACK}
        assert rest.chunks.raw[ChunkSource.PACK] < plan.fetched.index.image_size
        before = scene.sent
        assert isinstance(rest.write(), Content)
        assert scene.sent - before == rest.chunks.wire
    assert scene.is_installed()


def test_a_beginning_that_is_not_what_was_signed_is_refused_before_a_write(scene: Scene) -> None:
    noise = random.Random(7)
    with scene.image(delta=False) as image:
        plan = plan_seekable(scene.context, image)
        storage = scene.storage
        for path, data in list(scene.server.files.items()):
            if path.endswith(".zst"):
                scene.server.files[path] = noise.randbytes(len(data))
        with pytest.raises((DigestError, ImageError)):
            plan.begin()
        with pytest.raises((DigestError, ImageError)):
            plan.keep()
        assert scene.storage == storage
