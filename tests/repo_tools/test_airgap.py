"""Mirrors and bundles: what they contain, what they refuse, and a node that updates from one only."""

from __future__ import annotations

import json
import shutil
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.ceremony import new_repository
from repo_tools.cli import cli
from repo_tools.copies.bundle import BundleSource, Nodes, bundled_targets, export
from repo_tools.copies.clone import PARTS, Copied, copy, verify_source
from repo_tools.errors import (
    BundleError,
    ExpiredRepositoryError,
    RepositoryUnreachableError,
    StaleSourceError,
    TargetError,
    UntrustedError,
)
from repo_tools.repository.published import published_targets
from repo_tools.repository.session import writing
from repo_tools.trust.source import FolderSource, UrlSource
from repo_tools.upkeep import check
from signpost.console import run
from signpost.medium import OsMedium
from tests.repo_tools.clients import Client, releases
from tests.support.nodes import Node, make_node, now
from tests.support.repositories import SmallRepository, later, make_repository, tree_digest
from updog.state import Code
from updog.update_metadata.times import format_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from repo_tools.trust.source import ServerBehaviour, Source

_TINY = {"boot_size": 4096, "root_size": 8192, "hash_size": 4096}
_LARGE = {"boot_size": 4096, "root_size": 3 << 20, "hash_size": 4096}


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    """Make 1.0.0, 1.1.0, and 1.2.0 that needs 1.1.0 first."""
    repository = make_repository(tmp_path_factory.mktemp("master") / "repo", versions=[])
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        repository.synthesize(version, sizes=_LARGE if version == "1.0.0" else _TINY)
    repository.publish("1.0.0")
    repository.publish("1.1.0")
    repository.publish("1.2.0", floor=Version.parse("1.1.0"))
    return repository


@pytest.fixture
def repository(master: SmallRepository, tmp_path: Path) -> SmallRepository:
    return master.copied(tmp_path / "repo")


def _mirror(repository: SmallRepository, folder: Path, source: Source | None = None, **facts: Any) -> Copied:
    values: dict[str, Any] = {"trusted_root": repository.root_json, "now": repository.now}
    delete = bool(facts.pop("delete", False))
    verified = verify_source(source or FolderSource(repository.folder), folder, **(values | facts))
    return copy(verified, folder, published_targets(verified.chain), delete=delete)


def _versions(folder: Path) -> list[str]:
    from repo_tools.repository.published import manifest_of

    return [str(update.version) for update in manifest_of(folder).updates]


# -- mirror ------------------------------------------------------------------------------------------


def test_a_mirror_serves_what_its_source_does(repository: SmallRepository, tmp_path: Path) -> None:
    with repository.served() as url:
        _mirror(repository, tmp_path / "mirror", UrlSource(url))
    mirror = SmallRepository(folder=tmp_path / "mirror", now=repository.now)
    client = Client(tmp_path / "node", repository.root_json)
    assert releases(mirror.folder, client) == releases(repository.folder, client)
    assert check.check(FolderSource(mirror.folder), now=mirror.now).clean


def test_only_what_is_new_is_fetched(repository: SmallRepository, tmp_path: Path) -> None:
    first = _mirror(repository, tmp_path / "mirror")
    count = len(first.targets)
    assert first.kept == 0
    assert count > 9
    again = _mirror(repository, tmp_path / "mirror", trusted_root=None)
    assert (again.targets, again.kept) == ((), count)
    repository.synthesize("1.3.0", sizes=_TINY)
    before = {path.name for path in (repository.folder / "targets").iterdir()}
    repository.publish("1.3.0")
    after = {path.name for path in (repository.folder / "targets").iterdir()}
    third = _mirror(repository, tmp_path / "mirror", trusted_root=None)
    assert set(third.targets) == {f"targets/{name}" for name in after - before}
    assert _versions(tmp_path / "mirror") == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]


def test_what_nothing_leads_to_goes_one_mirroring_later(repository: SmallRepository, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    _mirror(repository, mirror)
    old = {f"targets/{path.name}" for path in (mirror / "targets").glob("*.manifest.json")}
    removed = []
    for version in ("1.3.0", "1.4.0"):
        repository.synthesize(version, sizes=_TINY)
        repository.publish(version)
        removed.append(set(_mirror(repository, mirror, delete=True).removed))
    assert removed[0] == set()
    assert old <= removed[1]
    assert all(path.endswith(".json") for path in removed[1]), "images stay listed"
    assert check.check(FolderSource(mirror), now=repository.now).clean


class Broken:
    """A source whose connection breaks after so many bytes of a target, so many times; then it works."""

    def __init__(self, inner: Source, *, after: int, times: int) -> None:
        self._inner, self._after, self.times = inner, after, times
        self.starts: list[int] = []

    def read(self, path: str, limit: int) -> bytes | None:
        return self._inner.read(path, limit)

    def size(self, path: str) -> int | None:
        return self._inner.size(path)

    def names(self, folder: str) -> list[str] | None:
        return self._inner.names(folder)

    def server_behaviour(self, path: str) -> ServerBehaviour | None:
        return self._inner.server_behaviour(path)

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        blocks = self._inner.blocks(path, start)
        if not path.endswith("1.0.0-root.erofs.zst") or blocks is None:
            return blocks
        self.starts.append(start)
        return self._cut(b"".join(blocks))

    def _cut(self, data: bytes) -> Iterator[bytes]:
        if not self.times:
            yield data
            return
        self.times -= 1
        yield data[: self._after]
        raise RepositoryUnreachableError("broke off")


def test_a_broken_line_is_resumed_where_it_broke(repository: SmallRepository, tmp_path: Path) -> None:
    with repository.served() as url:
        source = Broken(UrlSource(url), after=1 << 18, times=4)
        _mirror(repository, tmp_path / "mirror", source)
    assert source.starts == [number << 18 for number in range(5)]
    assert check.check(FolderSource(tmp_path / "mirror"), now=repository.now).clean


def test_a_mirroring_that_failed_goes_on_where_it_was(repository: SmallRepository, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    source = Broken(FolderSource(repository.folder), after=1 << 18, times=1)
    with pytest.raises(RepositoryUnreachableError):
        _mirror(repository, mirror, _then_silent(source))
    assert not (mirror / "metadata" / "timestamp.json").exists()
    assert max(part.stat().st_size for part in (mirror / PARTS).iterdir()) == 1 << 18
    whole = Broken(FolderSource(repository.folder), after=0, times=0)
    _mirror(repository, mirror, whole)
    assert whole.starts == [1 << 18]
    assert not (mirror / PARTS).exists()
    assert check.check(FolderSource(mirror), now=repository.now).clean


def _then_silent(source: Broken) -> Broken:
    """Make the source send nothing more after its first break."""
    first = source._cut

    def cut(data: bytes) -> Iterator[bytes]:
        if source.times:
            yield from first(data)
        raise RepositoryUnreachableError("no answer")

    source._cut = cut  # type: ignore[method-assign]
    return source


def test_a_part_of_another_day_is_fetched_again(repository: SmallRepository, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    item = next(path for path in (repository.folder / "targets").glob("*1.0.0-root.erofs.zst"))
    (mirror / PARTS).mkdir(parents=True)
    (mirror / PARTS / item.name).write_bytes(b"?" * 1000)
    _mirror(repository, mirror)
    assert (mirror / "targets" / item.name).read_bytes() == item.read_bytes()


def test_names_that_share_a_content_are_all_fetched(repository: SmallRepository, tmp_path: Path) -> None:
    for version in ("1.3.0", "1.4.0", "1.5.0"):
        repository.images[version] = repository.images["1.0.0"]
        repository.publish(version)
    _mirror(repository, tmp_path / "mirror")
    assert check.check(FolderSource(tmp_path / "mirror"), now=repository.now).clean


def _unlink(repository: SmallRepository) -> None:
    next((repository.folder / "targets").glob("*1.2.0-root.erofs.zst")).unlink()


def _change(repository: SmallRepository) -> None:
    path = next((repository.folder / "targets").glob("*1.2.0-root.erofs.zst"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def _lengthen(repository: SmallRepository) -> None:
    path = next((repository.folder / "targets").glob("*1.2.0-root.erofs.zst"))
    path.write_bytes(path.read_bytes() + b"?")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_unlink, "does not have targets/", id="half-uploaded"),
        pytest.param(_change, "has SHA-256", id="changed"),
        pytest.param(_lengthen, "bytes; [0-9]+ were signed", id="longer"),
    ],
)
def test_readers_of_a_mirror_see_nothing_of_a_damaged_source(
    repository: SmallRepository, tmp_path: Path, spoil: Callable[[SmallRepository], None], words: str
) -> None:
    mirror = tmp_path / "mirror"
    with writing(repository.folder, OsMedium(), now=repository.now) as session:
        session.re_sign(["timestamp"], repository.now)
    _mirror(repository, mirror)
    before = tree_digest(mirror / "metadata")
    for path in (mirror / "targets").glob("*1.2.0-root.erofs.zst"):
        path.unlink()
    with writing(repository.folder, OsMedium(), now=repository.now) as session:
        session.re_sign(["timestamp"], repository.now)
    spoil(repository)
    with repository.served() as url, pytest.raises(TargetError, match=words):
        _mirror(repository, mirror, UrlSource(url))
    assert tree_digest(mirror / "metadata") == before
    assert sum(part.stat().st_size for part in (mirror / PARTS).iterdir()) == 0


def test_without_a_trusted_root_nothing_is_copied(repository: SmallRepository, tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match="no trusted root yet"):
        _mirror(repository, tmp_path / "mirror", trusted_root=None)
    new_repository.create(tmp_path / "another", now=repository.now)
    foreign = (tmp_path / "another" / "metadata" / "1.root.json").read_bytes()
    with pytest.raises(UntrustedError, match="root 1 of the source is not the trusted root"):
        _mirror(repository, tmp_path / "mirror", trusted_root=foreign)
    with pytest.raises(UntrustedError, match="cannot be read"):
        _mirror(repository, tmp_path / "mirror", trusted_root=b"{}")
    assert not (tmp_path / "mirror").exists()


def test_a_source_that_went_back_is_refused(repository: SmallRepository, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(repository.folder, tmp_path / "old")
    repository.publish("1.3.0")
    _mirror(repository, mirror)
    before = tree_digest(mirror)
    with pytest.raises(StaleSourceError, match="the copy has 5"):
        _mirror(repository, mirror, FolderSource(tmp_path / "old"))
    assert tree_digest(mirror) == before


def test_a_source_that_lost_its_newest_root_is_refused(repository: SmallRepository, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(repository.folder, tmp_path / "old")
    with writing(repository.folder, OsMedium(), now=repository.now) as session:
        session.re_sign(["root"], repository.now)
    _mirror(repository, mirror)
    with pytest.raises(StaleSourceError, match="root 2 is trusted"):
        _mirror(repository, mirror, FolderSource(tmp_path / "old"))


def test_an_expired_source_needs_an_override_that_is_recorded(
    repository: SmallRepository, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    late = later(repository.now, days=8)
    with pytest.raises(ExpiredRepositoryError, match=r"timestamp\.json") as refused:
        _mirror(repository, mirror, now=late)
    assert "--accept-expired-until" in refused.value.next_step
    with pytest.raises(ExpiredRepositoryError):
        _mirror(repository, mirror, now=late, accept_expired_until=late)
    assert not mirror.exists()
    done = _mirror(repository, mirror, now=late, accept_expired_until=later(late, days=1))
    assert done.accepted_expired == ("timestamp.json",)
    (line,) = (mirror / "overrides.jsonl").read_text().splitlines()
    assert json.loads(line)["accepted_expired"] == ["timestamp.json"]


def test_an_override_accepts_expiry_and_nothing_else(repository: SmallRepository, tmp_path: Path) -> None:
    late, until = later(repository.now, days=8), later(repository.now, days=9)
    _mirror(repository, tmp_path / "mirror", now=late, accept_expired_until=until)
    shutil.copytree(tmp_path / "mirror", tmp_path / "old")
    with writing(repository.folder, OsMedium(), now=repository.now) as session:
        session.re_sign(["timestamp"], repository.now)
    _mirror(repository, tmp_path / "mirror", now=late, accept_expired_until=until)
    with pytest.raises(StaleSourceError):
        _mirror(
            repository,
            tmp_path / "mirror",
            FolderSource(tmp_path / "old"),
            now=late,
            accept_expired_until=until,
        )


def test_a_name_that_leads_out_of_the_folder_is_refused(repository: SmallRepository, tmp_path: Path) -> None:
    chain = verify_source(
        FolderSource(repository.folder), tmp_path / "x", trusted_root=repository.root_json, now=repository.now
    ).chain
    assert chain.targets
    listed = chain.targets.signed.targets
    listed["../../evil"] = next(iter(listed.values()))
    with pytest.raises(TargetError, match="not a valid path below"):
        published_targets(chain)


# -- bundle ------------------------------------------------------------------------------------------


def _names(folder: Path) -> set[str]:
    """Return the versions of the images in a folder's targets, and ``manif`` for the manifest."""
    names = {path.name.partition(".")[2] for path in (folder / "targets").iterdir()}
    return {name.removeprefix("os-synthetic-x86_64-")[:5] for name in names}


@pytest.mark.parametrize(
    ("starts", "through", "versions"),
    [
        (["1.0.0"], [["1.1.0", "1.2.0"]], {"1.1.0", "1.2.0"}),
        (["1.1.0"], [["1.2.0"]], {"1.2.0"}),
        (["1.2.0"], [[]], set()),
        (["1.0.5", "1.1.0"], [["1.1.0", "1.2.0"], ["1.2.0"]], {"1.1.0", "1.2.0"}),
        ([], [["1.1.0", "1.2.0"], ["1.2.0"], []], {"1.1.0", "1.2.0"}),
    ],
)
def test_a_bundle_holds_what_its_nodes_pass_through(
    repository: SmallRepository,
    tmp_path: Path,
    starts: list[str],
    through: list[list[str]],
    versions: set[str],
) -> None:
    nodes = Nodes(starts=[Version.parse(start) for start in starts])
    bundle = export(repository.folder, tmp_path / "bundle", nodes, now=repository.now)
    assert [[str(step.version) for step in item.path.steps] for item in bundle.paths] == through
    assert _names(tmp_path / "bundle") == versions | {"manif"}
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["targets"] == bundle.targets


def test_a_version_that_cannot_reach_the_newest_is_named(repository: SmallRepository, tmp_path: Path) -> None:
    repository.publish("2.0.0", floor=Version.parse("1.9.0"))
    with pytest.raises(BundleError, match=r"a node at 1\.0\.0 cannot get further than 1\.2\.0"):
        export(repository.folder, tmp_path / "bundle.tar", Nodes(), now=repository.now)
    assert not (tmp_path / "bundle.tar").exists()


def test_one_file_is_a_plain_archive_that_imports_as_the_folder_does(
    repository: SmallRepository, tmp_path: Path
) -> None:
    place = tmp_path / "bundle.tar"
    export(repository.folder, place, Nodes(), now=repository.now)
    with tarfile.open(place) as archive:
        assert {"metadata/1.root.json", "metadata/timestamp.json"} <= set(archive.getnames())
        archive.extractall(tmp_path / "unpacked", filter="data")
    for source, name in ((BundleSource(place), "a"), (FolderSource(tmp_path / "unpacked"), "b")):
        verified = verify_source(
            source, tmp_path / name, trusted_root=repository.root_json, now=repository.now
        )
        copy(verified, tmp_path / name, bundled_targets(verified))
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    assert _versions(tmp_path / "a") == ["1.0.0", "1.1.0", "1.2.0"]
    assert _names(tmp_path / "a") == {"1.1.0", "1.2.0", "manif"}


def test_bundles_imported_one_after_the_other_are_merged(repository: SmallRepository, tmp_path: Path) -> None:
    for start in ("1.1.0", "1.0.0"):
        place = tmp_path / f"{start}.tar"
        export(repository.folder, place, Nodes(starts=[Version.parse(start)]), now=repository.now)
        words = ["bundle", "import", str(place), str(tmp_path / "folder")]
        assert run(cli, [*words, "--trusted-root", str(repository.folder / "metadata/1.root.json")]) == 0
    assert _names(tmp_path / "folder") == {"1.1.0", "1.2.0", "manif"}


def _cut_short(place: Path) -> None:
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])


def _cut_between(place: Path) -> None:
    with tarfile.open(place) as archive:
        member = next(item for item in archive if item.name.endswith("1.2.0-root.erofs.zst"))
    place.write_bytes(place.read_bytes()[: member.offset])


def _spoil_target(place: Path) -> None:
    with tarfile.open(place) as archive:
        member = next(item for item in archive if "1.2.0-root" in item.name)
    data = bytearray(place.read_bytes())
    data[member.offset_data + 5] ^= 1
    place.write_bytes(data)


def _spoil_metadata(place: Path) -> None:
    data = place.read_bytes()
    assert b'"floor"' not in data[:4096]
    place.write_bytes(data.replace(b'"_type":"targets"', b'"_type":"tarGets"'))


@pytest.mark.parametrize("spoil", [_cut_short, _cut_between, _spoil_target, _spoil_metadata])
def test_a_damaged_bundle_is_refused(
    repository: SmallRepository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
) -> None:
    place = tmp_path / "bundle.tar"
    export(repository.folder, place, Nodes(), now=repository.now)
    spoil(place)
    root = str(repository.folder / "metadata" / "1.root.json")
    words = ["bundle", "import", str(place), str(tmp_path / "folder"), "--trusted-root", root]
    assert run(cli, words) == 1
    assert "next:" in capsys.readouterr().err
    assert not (tmp_path / "folder" / "metadata" / "timestamp.json").exists()


def test_something_else_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"what?" * 500)
    with pytest.raises(BundleError, match="is not a bundle"):
        BundleSource(tmp_path / "x.tar")


def test_a_damaged_repository_gives_no_bundle(repository: SmallRepository, tmp_path: Path) -> None:
    _change(repository)
    with pytest.raises(TargetError):
        export(repository.folder, tmp_path / "bundle.tar", Nodes(), now=repository.now)
    assert list(tmp_path.glob("bundle*")) == []


@pytest.mark.parametrize("name", ["bundle", "bundle.tar"])
def test_a_node_updates_from_a_bundle_and_nothing_else(tmp_path: Path, name: str) -> None:
    node = make_node(tmp_path / "site", published=["1.1.0", "1.2.0"])
    place = tmp_path / "usb" / name
    place.parent.mkdir()
    repository = node.repository.folder
    words = ["--repo", str(repository), "bundle", "export", str(place), "--from", "1.0.0"]
    assert run(cli, words) == 0
    root = tmp_path / "root.json"
    root.write_bytes(node.repository.root_json)
    here = tmp_path / "srv"
    assert run(cli, ["bundle", "import", str(place), str(here), "--trusted-root", str(root)]) == 0
    node.lose_repository()
    node.configure(metadata_base_url=f"file://{here}/metadata/", targets_base_url=f"file://{here}/targets/")
    assert node.updog("update").status == 0
    assert node.boot().status == 0
    assert node.updog("confirm").status == 0
    assert node.updog("status", "--json").document["running"]["version"] == "1.2.0"


def test_the_command_line_mirrors_again_without_words(
    repository: SmallRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = str(repository.folder / "metadata" / "1.root.json")
    with repository.served() as url:
        assert run(cli, ["mirror", url, str(tmp_path / "mirror")]) == 1
        assert "--trusted-root" in capfd.readouterr().err
        assert run(cli, ["mirror", url, str(tmp_path / "mirror"), "--trusted-root", root]) == 0
        assert ", 0 unchanged" in capfd.readouterr().out
        assert run(cli, ["mirror", url, str(tmp_path / "mirror"), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["targets"] == []
    assert document["kept"] > 9
    assert run(cli, ["validate", str(tmp_path / "mirror")]) == 0


# -- a node whose bundle took too long ---------------------------------------------------------------


@pytest.fixture
def late_node(tmp_path: Path) -> Node:
    """Return a node at 1.0.0 whose repository, a folder, has a timestamp that expired a day ago."""
    node = make_node(tmp_path / "site")
    with writing(node.repository.folder, OsMedium(), now=node.repository.now) as session:
        session.re_sign(["timestamp"], later(now(), days=-8))
    return node


def _waivers(node: Node) -> list[str]:
    return [event.sentence for event in node.state().history if event.code is Code.EXPIRED_ACCEPTED]


def test_a_node_refuses_expired_metadata(late_node: Node) -> None:
    before = late_node.disk_digest()
    said = late_node.updog("update")
    assert said.status == 4
    assert "timestamp.json is expired" in said.err
    assert "--accept-expired-until" in said.err
    assert late_node.disk_digest() == before


def test_an_override_on_the_node_is_recorded_once(late_node: Node) -> None:
    until = format_time(later(now(), days=1).replace(microsecond=0))
    for command in ("check-update", "update"):
        assert late_node.updog(command, options=["--accept-expired-until", until]).status == 0
    (sentence,) = _waivers(late_node)
    assert "timestamp.json expired on" in sentence
    assert late_node.boot().status == 0
    assert late_node.updog("confirm").status == 0


def test_an_override_in_the_configuration_ends_by_itself(late_node: Node) -> None:
    late_node.configure(accept_expired_until=format_time(later(now(), hours=1).replace(microsecond=0)))
    assert late_node.updog("check-update").status == 0
    late_node.configure(accept_expired_until=format_time(later(now(), hours=-1).replace(microsecond=0)))
    assert late_node.updog("check-update").status == 4
    assert len(_waivers(late_node)) == 1


def test_an_override_that_is_not_needed_leaves_no_trace(tmp_path: Path) -> None:
    node = make_node(tmp_path / "site")
    assert node.updog("check-update", options=["--accept-expired-until", "in 1 day"]).status == 0
    assert _waivers(node) == []


def _go_back(metadata: Path) -> None:
    shutil.copy(metadata.parent / "old.json", metadata / "timestamp.json")


def _forge(metadata: Path) -> None:
    path = metadata / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version":3', b'"version":4'))


@pytest.mark.parametrize(("spoil", "words"), [(_go_back, "version"), (_forge, "signed by")])
def test_an_override_on_the_node_accepts_expiry_and_nothing_else(
    late_node: Node, spoil: Callable[[Path], None], words: str
) -> None:
    metadata = late_node.repository.folder / "metadata"
    shutil.copy(metadata / "timestamp.json", metadata.parent / "old.json")
    with writing(late_node.repository.folder, OsMedium(), now=late_node.repository.now) as session:
        session.re_sign(["timestamp"], later(now(), days=-8))
    options = ["--accept-expired-until", "in 1 day"]
    assert late_node.updog("check-update", options=options).status == 0
    before = (metadata / "timestamp.json").read_bytes()
    spoil(metadata)
    assert (metadata / "timestamp.json").read_bytes() != before
    said = late_node.updog("update", options=options)
    assert said.status == 4
    assert words in said.err
