"""The plan of a release: what it decides, and that every refusal comes before an image is opened."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools import config
from repo_tools.errors import ImageError, ReleaseError, SigningKeyError, ThresholdError, VerityError
from repo_tools.images.packing import Packing
from repo_tools.images.verity import hash_image_size, make_hash_image
from repo_tools.releases import rollout
from repo_tools.releases.plan import ReleasePlan, plan_release
from repo_tools.releases.release import ReleaseName
from repo_tools.repository.change_log import Change
from repo_tools.repository.channel_session import writing_channel
from repo_tools.upkeep.prune import PruneRequest, prune
from signpost.errors import MediumError, UsageError
from signpost.medium import OsMedium
from tests.support.channels import add_channel
from tests.support.repositories import ARCH, VARIANT, SmallRepository, make_repository, tree_digest
from updog.update_metadata.errors import DuplicateUpdateError, PolicyError
from updog.update_metadata.manifest import Manifest
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import FrameType

TINY = {"boot_size": 4096, "root_size": 8192, "hash_size": 4096}
OLD = ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0")
NEW = "2.0.0"


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """Publish five releases."""
    repository = make_repository(tmp_path_factory.mktemp("master") / "repo", versions=[])
    for version in OLD:
        repository.synthesize(version, sizes=TINY)
        repository.publish(version)
    return repository


@pytest.fixture
def repository(master: SmallRepository, tmp_path: Path) -> SmallRepository:
    """Return a repository of its own, and the images of a release that is not published yet."""
    shutil.copytree(master.folder, tmp_path / "repo")
    mine = SmallRepository(folder=tmp_path / "repo", now=master.now, images=dict(master.images))
    mine.synthesize(NEW, sizes=TINY)
    return mine


def _planned(repository: SmallRepository, version: str = NEW, **facts: Any) -> ReleasePlan:
    release = repository.new_release(version, **facts)
    with writing_channel(
        repository.folder, OsMedium(), channel=release.channel, now=repository.now
    ) as session:
        return plan_release(session, release, now=repository.now)


def _withdraw(repository: SmallRepository, version: str) -> None:
    which = ReleaseName(version=Version.parse(version))
    rollout.take(repository.folder, rollout.withdrawing(which), now=repository.now)


def _configure(repository: SmallRepository, change: Callable[[str], str]) -> None:
    path = repository.folder / config.FILE
    path.write_text(change(path.read_text()))


# -- what it decides -------------------------------------------------------------------------------------


def test_targets_are_named_after_the_release_and_its_files(repository: SmallRepository) -> None:
    plan = _planned(repository, "2.0.0+build.7")
    assert plan.name == f"os-{VARIANT}-{ARCH}-2.0.0_build.7"
    assert [image.target for image in plan.images.values()] == [
        f"{plan.name}-boot.ext4.zst",
        f"{plan.name}-root.erofs.zst",
        f"{plan.name}-hash.verity.zst",
    ]
    assert list(plan.added.update.images.values()) == [image.target for image in plan.images.values()]


def test_a_dm_verity_image_that_will_be_made_has_its_name_already(repository: SmallRepository) -> None:
    plan = _planned(repository, hash=None)
    assert plan.images.hash.raw is None
    assert plan.images.hash.target == f"{plan.name}-hash.verity.zst"


def test_repo_toml_says_what_the_request_leaves_open(repository: SmallRepository) -> None:
    images = '[images]\ncompression = "lz4"\nlevel = 5\ndeltas = 1\n'
    _configure(repository, lambda text: re.sub(r"\[images\][^\[]*", images, text))
    plan = _planned(repository, packing=None, waves="")
    assert plan.packing == Packing(compression="lz4", level=5)
    assert plan.added.update.waves.starts
    assert len(plan.images.root.deltas_from) == 1
    other = Packing(compression="zstd", level=7)
    plan = _planned(repository, packing=other, waves="none", deltas=2)
    assert plan.packing == other
    assert not plan.added.update.waves.starts
    assert len(plan.images.root.deltas_from) == 2


def test_bases_are_the_last_on_offer_and_any_that_is_named(repository: SmallRepository) -> None:
    plan = _planned(repository, delta_from=(Version.parse("1.0.0"),), deltas=2)
    for kind, image in plan.images.items():
        assert [str(base.version) for base in image.cut_along] == ["1.4.0", "1.3.0", "1.2.0"]
        assert [str(base.version) for base in image.deltas_from] == ["1.0.0", "1.4.0", "1.3.0"]
        for base in image.deltas_from:
            assert f"-{kind}." in base.name
            assert base.pack.name == f"{base.sha256}.{base.name}"
            assert base.pack.stat().st_size == base.length
            assert base.index is not None
            assert base.index.is_file()


def test_a_withdrawn_release_is_no_base_and_goes_once_it_would_be_offered_again(
    repository: SmallRepository,
) -> None:
    _withdraw(repository, "1.4.0")
    plan = _planned(repository)
    assert [str(base.version) for base in plan.images.root.deltas_from] == ["1.3.0", "1.2.0", "1.1.0"]
    assert plan.added.dropped == (Version.parse("1.4.0"),)
    there = plan.added.manifest.updates_of(VARIANT, ARCH)
    assert [str(update.version) for update in there] == [NEW, "1.3.0", "1.2.0", "1.1.0", "1.0.0"]
    assert {str(update.max_version) for update in there} == {NEW}


def test_it_changes_nothing_and_opens_no_image(repository: SmallRepository) -> None:
    before = tree_digest(repository.folder)
    with _watched() as seen:
        _planned(repository)
    assert not _touched(seen, repository)
    assert tree_digest(repository.folder) == before


# -- what is refused -------------------------------------------------------------------------------------

_recorders: list[list[str]] = []


def _record(event: str, arguments: tuple[object, ...]) -> None:
    """Record what is opened and started; audit hooks cannot be removed, so this one checks for listeners."""
    if _recorders and event in {"open", "subprocess.Popen"}:
        _recorders[-1].append(str(arguments[0]))


sys.addaudithook(_record)


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Yield a list that grows by every file that is opened and every program that is started."""
    _recorders.append([])
    try:
        yield _recorders[-1]
    finally:
        _recorders.pop()


def _touched(seen: Sequence[str], repository: SmallRepository) -> list[str]:
    """Return what was opened of raw images and stored ones, and the programs that were started."""
    raw = f"{repository.images[NEW].folder}/"
    return [path for path in seen if path.startswith(raw) or ".zst" in path or "veritysetup" in path]


def test_the_watch_sees_an_image_that_is_opened(repository: SmallRepository) -> None:
    with _watched() as seen:
        repository.publish(NEW, hash=None)
    touched = _touched(seen, repository)
    assert str(repository.images[NEW].boot) in touched
    assert "veritysetup" in touched
    assert any(path.endswith("-1.4.0-root.erofs.zst") for path in touched)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What is refused: how it is caused, which gives more fields of the release; the error, its message."""

    name: str
    error: type[Exception]
    says: str
    arrange: Callable[[SmallRepository], object] = lambda _repository: None
    facts: dict[str, Any] = field(default_factory=dict)
    version: str = NEW

    def __str__(self) -> str:
        return self.name


def _to_fifo(repository: SmallRepository) -> None:
    """Replace the root image by a FIFO: opening it would block forever."""
    image = repository.images[NEW].root
    image.unlink()
    os.mkfifo(image)


def _unlist_the_base(repository: SmallRepository) -> None:
    """Remove the images of 1.4.0 from the signed targets, but leave its entry in the manifest."""
    with writing_channel(repository.folder, OsMedium(), now=repository.now) as session:
        names = [name for name in session.current_targets.targets if "-1.4.0-boot" in name]
        change = Change(action="test", subject="1.4.0")
        session.commit(session.manifest, [], repository.now, change, dropped=names)


def _slots(kind: str) -> Callable[[SmallRepository], object]:
    return lambda repository: _configure(repository, lambda text: f'{text}\n[slots]\n{kind} = "4KiB"\n')


def _without_signers(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "file2:keys/targets" not in line)


REFUSALS = [
    Refusal(name="version-is-there", version="1.4.0", error=DuplicateUpdateError, says="already"),
    Refusal(
        name="version-was-pruned",
        version="1.0.0",
        error=ReleaseError,
        says="cleared away before",
        arrange=lambda repository: prune(
            repository.folder, PruneRequest(keep=1, grace=timedelta()), now=repository.now
        ),
    ),
    Refusal(
        name="version-is-in-another-channel",
        version="1.4.0",
        error=ReleaseError,
        says="is published in targets",
        arrange=lambda repository: add_channel(repository, "stable"),
        facts={"channel": "stable"},
    ),
    Refusal(name="variant", error=UsageError, says="--variant", facts={"variant": "a/b"}),
    Refusal(name="arch", error=UsageError, says="--arch", facts={"arch": "x 86"}),
    Refusal(name="policy", error=PolicyError, says="defualt", facts={"waves": "defualt"}),
    Refusal(name="policy-file", error=MediumError, says="nowhere.toml", facts={"waves": "nowhere.toml"}),
    Refusal(
        name="floor",
        error=ReleaseError,
        says="no such release is published below",
        facts={"floor": Version.parse(NEW)},
    ),
    Refusal(
        name="base-that-is-not-published",
        error=ReleaseError,
        says="no delta can be made from 0.9.0",
        facts={"delta_from": (Version.parse("0.9.0"),)},
    ),
    Refusal(
        name="base-that-is-not-signed",
        error=ReleaseError,
        says="is in the manifest, but not signed",
        arrange=_unlist_the_base,
    ),
    Refusal(
        name="image-missing",
        error=ImageError,
        says="cannot read the image",
        arrange=lambda repository: repository.images[NEW].root.unlink(),
    ),
    Refusal(
        name="image-empty",
        error=ImageError,
        says="is empty",
        arrange=lambda repository: repository.images[NEW].root.write_bytes(b""),
    ),
    Refusal(name="image-is-a-fifo", error=ImageError, says="is not a file", arrange=_to_fifo),
    Refusal(
        name="image-too-large", error=ImageError, says=r"\[slots\] gives root 4096", arrange=_slots("root")
    ),
    Refusal(
        name="dm-verity-image-too-large",
        error=ImageError,
        says=r"the dm-verity image has 8192 bytes; \[slots\] gives hash 4096",
        arrange=_slots("hash"),
        facts={"hash": None},
    ),
    Refusal(
        name="root-has-no-whole-blocks",
        error=VerityError,
        says="has 8193 bytes, which is not a multiple of 4096",
        arrange=lambda repository: os.truncate(repository.images[NEW].root, 8193),
        facts={"hash": None},
    ),
    Refusal(
        name="keys-are-too-few",
        error=ThresholdError,
        says="targets needs 1 of its keys to sign; available: 0",
        arrange=lambda repository: _configure(repository, _without_signers),
    ),
    Refusal(
        name="key-is-gone",
        error=SigningKeyError,
        says="timestamp",
        arrange=lambda repository: (repository.folder / "keys" / "timestamp.pem").unlink(),
    ),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_it_is_refused_before_an_image_is_opened(repository: SmallRepository, refusal: Refusal) -> None:
    refusal.arrange(repository)
    before = tree_digest(repository.folder)
    with _watched() as seen, pytest.raises(refusal.error, match=refusal.says):
        repository.publish(refusal.version, **refusal.facts)
    assert not _touched(seen, repository)
    assert tree_digest(repository.folder) == before


# -- how much is read ------------------------------------------------------------------------------------


@contextmanager
def _parses() -> Iterator[Counter[str]]:
    """Count how often a manifest is parsed."""
    counted = Counter[str]()
    code = Manifest.from_json.__func__.__code__  # type: ignore[attr-defined]

    def count(frame: FrameType, event: str, _argument: object) -> None:
        counted["manifest"] += event == "call" and frame.f_code is code

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(before)


def test_a_publish_parses_what_is_there_and_what_it_plans_twice_and_what_it_signs(
    repository: SmallRepository,
) -> None:
    with _parses() as counted:
        repository.publish(NEW)
    assert counted["manifest"] == 2 + 2 + 1  # before the images are compressed, and under the lock


@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 128 * 128 + 1])
def test_the_size_of_a_dm_verity_image_is_known_before_it_is_made(tmp_path: Path, blocks: int) -> None:
    root, made = tmp_path / "root", tmp_path / "hash"
    root.touch()
    os.truncate(root, blocks * 4096)
    make_hash_image(root, made, name="os-vm-x86_64-1.0.0")
    assert hash_image_size(blocks * 4096) == made.stat().st_size
