"""The trust in a repository, against whatever an attacker, an accident or a clock can do (D46 to D57)."""

from __future__ import annotations

import json
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import MetaFile

from signpost.errors import ExitStatus, MediumError, ToolError
from signpost.medium import OsMedium
from tests.support.http_server import HttpServer, answer, endless, plain, raw
from tests.support.nodes import FailingMedium
from tests.support.tuf_repositories import TufRepository, in_days, signed_bytes, signer
from updog.errors import (
    DigestError,
    EndlessDataError,
    ExpiredError,
    MissingTargetError,
    RollbackError,
    SignatureError,
    TrustError,
    UnreachableError,
    WebPageError,
)
from updog.transport import HttpTransport, TransportSettings
from updog.trust import MAX_ROOT_ROTATIONS, Target, Trust, TrustedRoot
from updog.update_metadata.signed_time import SIGNED_AT
from updog.update_metadata.times import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from signpost.medium import Medium
    from updog.transport import Transport

SHIPPED_ROOT = Path("/usr/share/updog/root.json")
TIMESTAMP = "metadata/timestamp.json"
KEPT = ["root.json", "snapshot.json", "targets.json", "timestamp.json"]


class Client:
    """A node's trust over many checks, each with a new :class:`Trust` on the same folder."""

    def __init__(self, folder: Path, metadata_url: str, root: bytes, medium: Medium | None = None) -> None:
        self.folder = folder
        self._medium = medium or OsMedium()
        self.url = metadata_url
        self._root = root

    def trust(
        self,
        *,
        root: bytes | None = None,
        medium: Medium | None = None,
        transport: Transport | None = None,
        channel: str | None = None,
    ) -> Trust:
        return Trust(
            self.folder,
            bootstrap=TrustedRoot(path=SHIPPED_ROOT, data=root or self._root),
            metadata_url=self.url,
            transport=transport
            or HttpTransport(TransportSettings(tries=1, connect_timeout=5, stall_timeout=5)),
            medium=medium or self._medium,
            channel=channel,
        )

    def refresh(self, now: datetime | None = None, latest_known: datetime | None = None) -> Trust:
        trust = self.trust()
        trust.refresh(now or datetime.now(UTC), latest_known=latest_known)
        return trust

    def kept(self) -> dict[str, bytes]:
        """Return every file of the state folder."""
        files = self.folder.rglob("*.json")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}


class Recording(OsMedium):
    """The real storage; records what was flushed, in order, and with ``lazy`` flushes nothing."""

    def __init__(self, *, lazy: bool = False) -> None:
        self.flushed: list[str] = []
        self._lazy = lazy
        self._names: dict[int, str] = {}

    def open(self, path: str, *, write: bool) -> int:
        descriptor = super().open(path, write=write)
        self._names[descriptor] = path
        return descriptor

    def flush(self, descriptor: int) -> None:
        self.flushed.append(self._names[descriptor])
        if not self._lazy:
            super().flush(descriptor)

    def flush_folder(self, path: str) -> None:
        self.flushed.append(path)
        if not self._lazy:
            super().flush_folder(path)


@pytest.fixture
def repository() -> TufRepository:
    return TufRepository({"manifest.json": b"{}", "images/a.zst": b"image"})


@pytest.fixture
def server(repository: TufRepository) -> Iterator[HttpServer]:
    with HttpServer(repository.files) as server:
        yield server


@pytest.fixture
def client(tmp_path: Path, repository: TufRepository, server: HttpServer) -> Client:
    return Client(tmp_path / "tuf", server.url("metadata/"), repository.first_root)


def assert_refused(client: Client, error: type[ToolError], match: str | None = None) -> ToolError:
    """Check that a refresh raises exactly this error, and that what was trusted before still is."""
    before = client.kept().get("timestamp.json")
    with pytest.raises(error, match=match) as caught:
        client.refresh()
    assert type(caught.value) is error
    wanted = ExitStatus.UNREACHABLE if issubclass(error, UnreachableError) else ExitStatus.REFUSED
    assert caught.value.status is wanted
    if before is not None and error is RollbackError:
        assert json.loads(client.kept()["timestamp.json"])["signed"]["version"] >= _version(before)
    return caught.value


def _version(metadata: bytes) -> int:
    return int(json.loads(metadata)["signed"]["version"])


# -- the normal case -----------------------------------------------------------------------------------


def test_a_first_refresh_believes_and_keeps_every_role(client: Client, repository: TufRepository) -> None:
    trust = client.refresh()
    assert trust.versions == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    assert sorted(path.name for path in client.folder.glob("*.json")) == KEPT
    assert client.kept()["timestamp.json"] == repository.files[TIMESTAMP]


def test_a_check_that_finds_nothing_new_asks_two_things_the_next_root_and_the_timestamp(
    client: Client, server: HttpServer
) -> None:
    client.refresh()
    server.log.clear()
    trust = client.refresh()
    assert trust.target("manifest.json").length == 2
    assert server.paths == ["metadata/2.root.json", TIMESTAMP]


def test_a_new_version_is_fetched_once_and_only_what_is_new(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    client.refresh()
    repository.publish()
    server.log.clear()
    assert client.refresh().versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
    assert server.paths == [
        "metadata/2.root.json",
        TIMESTAMP,
        "metadata/2.snapshot.json",
        "metadata/2.targets.json",
    ]


def test_a_new_timestamp_over_the_same_snapshot_fetches_nothing_else(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    client.refresh()
    repository.publish_timestamp()
    server.log.clear()
    assert client.refresh().versions["timestamp"] == 2
    assert server.paths == ["metadata/2.root.json", TIMESTAMP]


def test_a_target_is_what_was_signed_and_its_path_has_the_hash_before_the_base_name(
    client: Client, repository: TufRepository
) -> None:
    target = client.refresh().target("images/a.zst")
    assert (target.name, target.length) == ("images/a.zst", 5)
    assert f"targets/{target.path}" in repository.files
    assert target.path == f"images/{target.sha256}.a.zst"
    assert Target(name="b", length=1, sha256="cd" * 32).path == f"{'cd' * 32}.b"


def test_a_target_that_is_not_listed_is_missing(client: Client) -> None:
    with pytest.raises(MissingTargetError, match="does not list 'nothing'") as caught:
        client.refresh().target("nothing")
    assert caught.value.status is ExitStatus.REFUSED


def test_a_target_without_a_sha256_is_not_taken(client: Client, repository: TufRepository) -> None:
    repository.put("weak", b"weak").hashes = {"sha512": "ab" * 64}
    repository.publish()
    with pytest.raises(TrustError, match='"weak" is signed without a SHA-256'):
        client.refresh().target("weak")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "a\x1b[2J"], ids=range(4))
def test_a_signed_name_that_is_no_path_below_targets_is_refused_in_printable_words(
    client: Client, repository: TufRepository, name: str
) -> None:
    repository.put(name, b"content")
    repository.publish()
    with pytest.raises(TrustError, match="not a valid path below targets/") as caught:
        client.refresh().target(name)
    assert caught.value.message.isprintable()


def test_metadata_are_not_kept_where_others_can_write(client: Client) -> None:
    client.refresh()
    for folder in (client.folder / "root_history", client.folder):
        folder.chmod(0o777)
        before = client.kept()
        with pytest.raises(MediumError, match="can be written by everyone"):
            client.refresh()
        assert client.kept() == before
        folder.chmod(0o755)
    client.refresh()


def test_a_flush_that_fails_leaves_no_file_open(client: Client) -> None:
    def open_files() -> list[str]:
        links = Path("/proc/self/fd").iterdir()
        return [str(link.readlink()) for link in links if link.is_symlink()]

    with pytest.raises(MediumError):
        client.trust(medium=FailingMedium(at=0, only=("flush",))).refresh(datetime.now(UTC))
    assert not [name for name in open_files() if name.startswith(str(client.folder))]


def test_another_client_of_the_same_root_in_another_folder_starts_again(
    client: Client, tmp_path: Path, server: HttpServer, repository: TufRepository
) -> None:
    client.refresh()
    other = Client(tmp_path / "other", server.url("metadata/"), repository.first_root)
    assert other.refresh().versions == client.refresh().versions


def test_everything_kept_is_flushed_before_a_refresh_ends(client: Client) -> None:
    medium = Recording()
    client.trust(medium=medium).refresh(datetime.now(UTC))
    names = [*KEPT, "root_history/1.root.json", "root_history"]
    assert {str(client.folder / name) for name in names} | {str(client.folder)} == set(medium.flushed)
    assert medium.flushed[-1] == str(client.folder)


def test_a_root_is_flushed_once_not_at_every_check(client: Client, repository: TufRepository) -> None:
    repository.rotate("root", times=5)
    client.refresh()
    repository.rotate("root")
    medium = Recording()
    client.trust(medium=medium).refresh(datetime.now(UTC))
    assert [name for name in medium.flushed if name.endswith("7.root.json")]
    assert not [name for name in medium.flushed if name.endswith("6.root.json")]


# -- rollback (D46) ------------------------------------------------------------------------------------


def test_an_older_timestamp_is_a_rollback_even_for_a_node_that_was_off(
    client: Client, repository: TufRepository
) -> None:
    """D46: every check is a new Trust; the memory is in the folder."""
    old = repository.snapshot_of_files()
    repository.publish()
    client.refresh()
    repository.files.update(old)
    assert_refused(client, RollbackError, "timestamp")
    assert _version(client.kept()["timestamp.json"]) == 2


def test_an_older_snapshot_under_a_new_timestamp_is_a_rollback(
    client: Client, repository: TufRepository
) -> None:
    """D46: an attacker with the timestamp key alone."""
    old = repository.files["metadata/1.snapshot.json"]
    repository.publish()
    client.refresh()
    repository.timestamp.version += 1
    repository.timestamp.snapshot_meta = MetaFile.from_data(1, old, ["sha256"])
    repository.files[TIMESTAMP] = signed_bytes(repository.timestamp, repository.signers["timestamp"])
    assert_refused(client, RollbackError, "snapshot")


def test_older_targets_under_a_new_snapshot_are_a_rollback(client: Client, repository: TufRepository) -> None:
    """D46: an attacker with the timestamp and snapshot keys."""
    repository.publish()
    client.refresh()
    repository.targets.version = 0
    repository.publish()
    assert_refused(client, RollbackError, "targets")


def test_a_role_taken_out_of_the_snapshot_is_refused(client: Client, repository: TufRepository) -> None:
    """D46."""
    repository.delegate("stable", ["stable/*"])
    repository.publish()
    client.refresh()
    del repository.delegated["stable"]
    del repository.snapshot.meta["stable.json"]
    repository.publish()
    assert_refused(client, TrustError, "stable")


@pytest.mark.parametrize("version", [1, 3])
def test_a_next_root_of_another_version_than_its_name_is_a_rollback(
    client: Client, repository: TufRepository, version: int
) -> None:
    """D46."""
    client.refresh()
    repository.root.version = version
    data = signed_bytes(repository.root, repository.signers["root"])
    repository.files["metadata/2.root.json"] = data
    assert_refused(client, RollbackError, "root")


def test_a_fast_forward_by_a_stolen_key_is_undone_by_rotating_it(
    client: Client, repository: TufRepository
) -> None:
    """D57."""
    repository.timestamp.version = 1_000_000_000
    repository.publish()
    client.refresh()
    repository.timestamp.version = 1
    repository.publish()
    assert_refused(client, RollbackError)
    repository.rotate("timestamp")
    repository.publish()
    assert client.refresh().versions["timestamp"] == 3


# -- freeze and clocks (D47, D55, D56) -----------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_correctly_signed_metadata_that_expired_is_a_freeze(
    client: Client, repository: TufRepository, role: str
) -> None:
    """D47."""
    getattr(repository, role).expires = in_days(-1)
    repository.publish()
    error = assert_refused(client, ExpiredError, role)
    assert "clock" in error.next_step


def test_an_expired_root_is_a_freeze_unless_a_newer_one_is_there(
    client: Client, repository: TufRepository
) -> None:
    """D47, D53: an expired root on the way to the last one is accepted, an expired last one is not."""
    repository.root.expires = in_days(-1)
    repository.root.version = 2
    repository.publish_root(repository.signers["root"])
    assert_refused(client, ExpiredError, "root")
    repository.root.expires = in_days(30)
    repository.rotate("root")
    assert client.refresh().versions["root"] == 3


def test_metadata_that_is_frozen_is_refused_once_it_has_expired(
    client: Client, repository: TufRepository
) -> None:
    """D47: a mirror that always serves the same is trusted until the signed expiry, not a second longer."""
    end = repository.timestamp.expires
    client.refresh(now=end - timedelta(seconds=1))
    with pytest.raises(ExpiredError, match=r"root\.json expired on .* UTC; the clock shows .* UTC"):
        client.refresh(now=end)


def test_a_clock_a_year_ahead_is_refused_and_the_moment_is_named(client: Client) -> None:
    """D56."""
    ahead = datetime.now(UTC) + timedelta(days=365)
    with pytest.raises(ExpiredError, match=f"the clock shows {ahead:%Y-%m-%d}") as caught:
        client.refresh(now=ahead)
    assert "Check the node's clock" in caught.value.next_step


def test_a_clock_a_year_behind_on_a_new_node_does_no_harm(client: Client) -> None:
    """D56: nothing contradicts it; versions still only rise."""
    assert client.refresh(now=datetime.now(UTC) - timedelta(days=365)).versions["timestamp"] == 1


def test_a_clock_set_back_does_not_bring_expired_metadata_to_life(
    client: Client, repository: TufRepository
) -> None:
    """D56: it was signed after the time that the clock shows."""
    known = repository.timestamp.expires + timedelta(hours=1)
    with pytest.raises(ExpiredError, match=f"was signed on {known:%Y-%m-%d %H:%M}.*, and the clock shows"):
        client.refresh(now=datetime.now(UTC) - timedelta(days=365), latest_known=known)


def test_a_clock_set_back_a_little_is_fine_as_long_as_nothing_expired_by_then(client: Client) -> None:
    """D56."""
    now = datetime.now(UTC)
    client.refresh(now=now - timedelta(days=5), latest_known=now + timedelta(days=5))


def test_a_timestamp_that_says_when_it_was_signed_is_held_against_a_clock_before_it(
    client: Client, repository: TufRepository
) -> None:
    """D56: what had expired by then is refused, though the node's clock and memory do not show it."""
    signed = repository.root.expires + timedelta(hours=1)
    for payload in (repository.timestamp, repository.snapshot, repository.targets):
        payload.expires = signed + timedelta(days=7)
    repository.timestamp.unrecognized_fields[SIGNED_AT] = format_time(signed)
    repository.publish()
    with pytest.raises(ExpiredError, match=r"root\.json expired on .*; the repository was signed on"):
        client.refresh()


def test_the_newest_timestamp_decides_when_it_was_signed(client: Client, repository: TufRepository) -> None:
    """A publisher whose clock was years ahead re-signs; no node is left behind, none needs a change."""
    ahead, right = in_days(29), in_days(0)
    repository.timestamp.unrecognized_fields[SIGNED_AT] = format_time(ahead)
    repository.publish()
    assert client.refresh().signed_time == ahead
    repository.timestamp.unrecognized_fields[SIGNED_AT] = format_time(right)
    repository.publish()
    assert client.refresh(latest_known=in_days(4000)).signed_time == right


@pytest.mark.parametrize("value", [None, 5, "yesterday", "2026-11-24", [], {"a": 1}], ids=str)
def test_a_member_that_is_no_time_vouches_for_none(
    client: Client, repository: TufRepository, value: object
) -> None:
    repository.timestamp.unrecognized_fields[SIGNED_AT] = value
    repository.publish()
    assert client.refresh().signed_time is None


# -- mixtures, lengths, hashes, ends (D48, D49, D51) ---------------------------------------------------


def test_a_snapshot_of_another_moment_is_a_mixture_and_refused(
    client: Client, repository: TufRepository
) -> None:
    """D48: every file is correctly signed, but they do not belong together."""
    old = repository.files["metadata/1.snapshot.json"]
    repository.publish()
    repository.files["metadata/2.snapshot.json"] = old
    assert_refused(client, DigestError, r"/metadata/2\.snapshot\.json: Observed")


def test_targets_of_another_moment_are_a_mixture_and_refused(
    client: Client, repository: TufRepository
) -> None:
    """D48."""
    old = repository.files["metadata/1.targets.json"]
    repository.publish()
    repository.files["metadata/2.targets.json"] = old
    assert_refused(client, RollbackError, "targets")


def test_a_snapshot_that_is_too_long_is_endless(client: Client, repository: TufRepository) -> None:
    """D51."""
    repository.files["metadata/1.snapshot.json"] += b" "
    assert_refused(client, EndlessDataError)


def test_a_snapshot_that_is_too_short_is_refused(client: Client, repository: TufRepository) -> None:
    """D51: cut at its last byte, with a length that says so."""
    repository.files["metadata/1.snapshot.json"] = repository.files["metadata/1.snapshot.json"][:-1]
    assert_refused(client, DigestError)


def test_a_snapshot_with_the_wrong_hash_is_refused(client: Client, repository: TufRepository) -> None:
    """D51: same length, same meaning, other bytes: a signature's hex digits in capitals."""
    document = repository.files["metadata/1.snapshot.json"]
    signature = json.loads(document)["signatures"][0]["sig"].encode()
    repository.files["metadata/1.snapshot.json"] = document.replace(signature, signature.upper())
    assert_refused(client, DigestError)


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("metadata/2.root.json", 512_000),
        (TIMESTAMP, 16_384),
        ("metadata/1.snapshot.json", 4_096),
        ("metadata/1.targets.json", 16 << 20),
    ],
)
def test_endless_metadata_is_cut_off_at_the_limit_of_its_role(
    client: Client, server: HttpServer, path: str, most: int
) -> None:
    """D49: beyond the limit the server can only fill the buffers of the sockets."""
    server.behave(path, endless(first=b"{"))
    assert_refused(client, EndlessDataError)
    assert server.asked(path)[0].sent < most + (16 << 20)


# -- signatures (D52) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [TIMESTAMP, "metadata/1.snapshot.json", "metadata/1.targets.json", "metadata/2.root.json"]
)
@pytest.mark.parametrize("signers", [[], ["stranger"], ["stranger", "another stranger"]])
def test_metadata_without_the_signatures_of_its_role_is_refused(
    client: Client, repository: TufRepository, path: str, signers: list[str]
) -> None:
    """D52: unsigned, or signed by untrusted keys."""
    repository.rotate("root")
    repository.resign(path, [signer(name) for name in signers])
    if path == "metadata/1.snapshot.json":
        snapshot = repository.files[path]
        repository.timestamp.snapshot_meta = MetaFile.from_data(1, snapshot, ["sha256"])
        repository.publish_timestamp()
    assert_refused(client, SignatureError, "signed by 0/1 keys")


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_a_stolen_key_below_the_threshold_signs_nothing(tmp_path: Path, role: str) -> None:
    """D52: one of two keys, and again with the same key twice."""
    repository = TufRepository({"a": b"a"}, thresholds={role: 2})
    with HttpServer(repository.files) as server:
        client = Client(tmp_path / "tuf", server.url("metadata/"), repository.first_root)
        client.refresh()
        one = repository.signers[role][0]
        repository.signers[role] = [one, one]
        if role == "root":
            repository.root.version += 1
            repository.publish_root([one, one])
        else:
            repository.publish()
        assert_refused(client, SignatureError, "1/2|2 keys")


@pytest.mark.parametrize("who", ["old", "new"])
def test_a_new_root_needs_the_old_keys_and_the_new_ones(
    client: Client, repository: TufRepository, who: str
) -> None:
    """D52."""
    old = repository.signers["root"]
    repository.rotate("root")
    repository.publish_root(old if who == "old" else repository.signers["root"])
    assert_refused(client, SignatureError, "root")
    assert _version(client.kept()["root.json"]) == 1


def test_a_revoked_key_no_longer_signs(client: Client, repository: TufRepository) -> None:
    """D52: the old timestamp key is useless to a thief after the rotation."""
    client.refresh()
    stolen = repository.signers["timestamp"]
    repository.rotate("timestamp")
    repository.signers = {**repository.signers, "timestamp": stolen}
    repository.publish()
    assert_refused(client, SignatureError, "timestamp")


# -- roots (D53, D54) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [2, 10, 100])
def test_a_node_that_slept_walks_every_root_from_one_to_n(
    client: Client, server: HttpServer, repository: TufRepository, last: int
) -> None:
    """D53: root keys changed each time; a second check uses the kept ones without requests."""
    repository.rotate("root", times=last - 1)
    assert client.refresh().versions["root"] == last
    walked = [f"metadata/{version}.root.json" for version in range(2, last + 2)]
    assert [path for path in server.paths if "root" in path] == walked
    server.log.clear()
    assert client.refresh().versions["root"] == last
    assert server.paths == [f"metadata/{last + 1}.root.json", TIMESTAMP]


def test_a_gap_in_the_roots_ends_the_walk_before_it(client: Client, repository: TufRepository) -> None:
    """D53: the keys below are those of the root before the gap, so what is signed by later ones is not."""
    repository.rotate("root", times=2)
    repository.rotate("timestamp")
    repository.publish()
    del repository.files["metadata/3.root.json"]
    assert_refused(client, SignatureError, "timestamp")


@pytest.mark.parametrize("status", [403, 404])
def test_a_next_root_that_is_not_there_means_there_is_none(
    client: Client, server: HttpServer, status: int
) -> None:
    server.behave("metadata/2.root.json", answer(status))
    assert client.refresh().versions["root"] == 1


def test_a_newer_root_in_the_image_is_trusted_over_an_older_one_that_was_kept(
    client: Client, repository: TufRepository
) -> None:
    client.refresh()
    repository.rotate("root", times=3)
    trust = client.trust(root=repository.files["metadata/4.root.json"])
    trust.refresh(datetime.now(UTC))
    assert trust.versions["root"] == 4


@pytest.fixture(scope="module")
def long_chain() -> TufRepository:
    """A repository with one rotation less than the limit, and one more after that."""
    repository = TufRepository({"a": b"a"})
    repository.rotate("root", times=MAX_ROOT_ROTATIONS)
    return repository


def _over_files(repository: TufRepository, folder: Path, roots: int) -> Client:
    """Return a client of the repository's files on a disk, with as many roots."""
    (folder / "metadata").mkdir()
    for path, data in repository.files.items():
        name, version = path.rpartition("/")[2], path.rpartition("/")[2].partition(".")[0]
        if path.startswith("metadata/") and not (name.endswith("root.json") and int(version) > roots):
            (folder / path).write_bytes(data)
    url = f"{(folder / 'metadata').as_uri()}/"
    return Client(folder / "tuf", url, repository.first_root, Recording(lazy=True))


def test_the_last_walk_that_surely_ended_is_trusted(tmp_path: Path, long_chain: TufRepository) -> None:
    """D53."""
    client = _over_files(long_chain, tmp_path, MAX_ROOT_ROTATIONS)
    assert client.refresh().versions["root"] == MAX_ROOT_ROTATIONS


def test_a_walk_as_long_as_the_limit_is_no_end_but_an_error(
    tmp_path: Path, long_chain: TufRepository
) -> None:
    """D53: python-tuf stops there without an error; a later root might have removed a key."""
    client = _over_files(long_chain, tmp_path, MAX_ROOT_ROTATIONS + 1)
    for _ in range(2):
        assert_refused(client, TrustError, "gave up after 1024 root rotations; ship a newer root")
    newer = client.trust(root=long_chain.files["metadata/900.root.json"])
    newer.refresh(datetime.now(UTC))
    assert newer.versions["root"] == MAX_ROOT_ROTATIONS + 1


def test_what_one_check_believes_does_not_change_under_it(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    """D54: root and targets change after the refresh; the old target is still signed, and still there."""
    repository.delegate("stable", ["stable/*"])
    repository.put("stable/a", b"old", role="stable")
    repository.publish()
    trust = client.refresh()
    repository.rotate("root")
    repository.rotate("targets")
    repository.put("stable/a", b"newer", role="stable")
    repository.put("manifest.json", b"{ }")
    repository.publish()
    assert trust.target("stable/a").length == 3
    assert f"targets/{trust.target('manifest.json').path}" in server.files
    assert client.refresh().target("stable/a").length == 5


# -- delegated roles: channels -------------------------------------------------------------------------


@pytest.fixture
def channels(repository: TufRepository) -> TufRepository:
    repository.delegate("stable", ["stable/*"])
    repository.delegate("beta", ["beta/*"])
    repository.put("stable/manifest.json", b"stable", role="stable")
    repository.put("beta/manifest.json", b"beta", role="beta")
    repository.put("stable/by-beta", b"beta", role="beta")
    repository.publish()
    return repository


@pytest.mark.usefixtures("channels")
def test_a_channel_is_fetched_when_one_of_its_targets_is_asked_for(
    client: Client, server: HttpServer
) -> None:
    trust = client.refresh()
    assert not [path for path in server.paths if "stable" in path or "beta" in path]
    assert trust.target("stable/manifest.json").length == 6
    assert server.paths[-1] == "metadata/1.stable.json"
    assert "metadata/1.beta.json" not in server.paths


def _in_channel(client: Client, channel: str) -> Trust:
    trust = client.trust(channel=channel)
    trust.refresh(datetime.now(UTC))
    return trust


def test_a_node_of_a_channel_takes_its_targets_from_no_other_role(
    client: Client, channels: TufRepository
) -> None:
    """Channels share the names of images: the order of the roles would decide which one counts."""
    delegations = channels.targets.delegations
    assert delegations
    assert delegations.roles
    for role, content in (("stable", b"of stable"), ("beta", b"of beta")):
        delegations.roles[role].paths = [f"{role}/*", "images/*"]
        channels.put("images/shared", content, role=role)
    channels.put("images/top", b"top")
    channels.publish()
    assert _in_channel(client, "stable").target("images/shared").length == len(b"of stable")
    beta = _in_channel(client, "beta")
    assert beta.target("images/shared").length == len(b"of beta")
    for name in ("images/top", "stable/manifest.json", "manifest.json"):
        with pytest.raises(MissingTargetError):
            beta.target(name)


@pytest.mark.usefixtures("channels")
def test_a_channel_whose_manifest_the_top_level_lists_uses_the_top_level(
    client: Client, repository: TufRepository
) -> None:
    repository.put("latest/manifest.json", b"{}")
    repository.publish()
    trust = _in_channel(client, "latest")
    assert trust.target("latest/manifest.json").length == 2
    assert trust.target("images/a.zst").length == len(b"image")


@pytest.mark.usefixtures("channels")
def test_a_channel_that_does_not_exist_has_no_targets(client: Client) -> None:
    trust = _in_channel(client, "nightly")
    for name in ("nightly/manifest.json", "manifest.json", "images/a.zst"):
        with pytest.raises(MissingTargetError):
            trust.target(name)


@pytest.mark.parametrize(
    ("minutes", "accepted"), [(5, True), (-5, False)], ids=["until later", "until earlier"]
)
def test_expired_metadata_are_accepted_until_the_time_that_was_given_and_no_longer(
    client: Client, repository: TufRepository, *, minutes: float, accepted: bool
) -> None:
    repository.publish(expires=in_days(-1))
    now = datetime.now(UTC)
    trust = client.trust()
    if accepted:
        trust.refresh(now, accept_expired_until=now + timedelta(minutes=minutes))
        assert [line.partition(" ")[0] for line in trust.waived] == [
            "timestamp.json",
            "snapshot.json",
            "targets.json",
        ]
    else:
        with pytest.raises(ExpiredError):
            trust.refresh(now, accept_expired_until=now + timedelta(minutes=minutes))


@pytest.mark.usefixtures("channels")
def test_a_channel_signs_nothing_outside_its_paths(client: Client) -> None:
    with pytest.raises(MissingTargetError):
        client.refresh().target("stable/by-beta")


def test_a_channel_signed_by_another_key_is_refused(client: Client, channels: TufRepository) -> None:
    """D52."""
    channels.signers["stable"] = channels.signers["beta"]
    channels.publish()
    with pytest.raises(SignatureError, match="stable"):
        client.refresh().target("stable/manifest.json")


def test_a_channel_that_expired_is_refused(client: Client, channels: TufRepository) -> None:
    """D47."""
    channels.delegated["stable"].expires = in_days(-1)
    channels.publish()
    with pytest.raises(ExpiredError, match="stable"):
        client.refresh().target("stable/manifest.json")


def test_a_channel_rolled_back_is_refused(client: Client, channels: TufRepository) -> None:
    """D46."""
    channels.publish()
    client.refresh().target("stable/manifest.json")
    channels.delegated["stable"].version = 0
    channels.publish()
    with pytest.raises(RollbackError, match="stable"):
        client.refresh()


def test_a_channel_that_is_not_there_is_unreachable(client: Client, channels: TufRepository) -> None:
    del channels.files["metadata/1.stable.json"]
    with pytest.raises(UnreachableError, match=r"1\.stable\.json answered HTTP 404"):
        client.refresh().target("stable/manifest.json")


# -- what cannot be read (D93) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"expires":', b'"expirez":', 'the field "signed.expires" is missing \\(in timestamp metadata'),
        (
            b'"version":1',
            b'"version":"1"',
            'version" is "1", not a whole number above 0 \\(in timestamp',
        ),
        (b'"version":1', b'"version":-1', 'version" is -1, not a whole number above 0'),
        (b'"snapshot.json":', b'"snapshots.json":', '"signed.meta.snapshot.json" is missing'),
        (b'"spec_version":"1', b'"spec_version":"9', "Unsupported spec_version 9"),
        (b'"_type":"timestamp"', b'"_type":"time"', 'unrecognized metadata type "time"'),
        (b"{", b"[", "not JSON: "),
        (b"{", b"\xff", "not JSON: "),
        (b'"expires":"2', b'"expires":"', '"signed.expires" is "[^"]+", not a time such as'),
        (b"Z", b".5+99:99", '"signed.expires" is "[^"]+", not a time such as'),
        (b'"signatures":[', b'"signatures":[5,', '"signatures\\[0\\]" is 5, not an object'),
    ],
)
def test_metadata_that_cannot_be_read_are_explained_by_file_field_and_value(
    client: Client, repository: TufRepository, old: bytes, new: bytes, reason: str
) -> None:
    repository.files[TIMESTAMP] = repository.files[TIMESTAMP].replace(old, new, 1)
    error = assert_refused(client, TrustError, reason)
    assert "metadata/timestamp.json is not valid: " in error.message
    assert "deserialize" not in error.message


@pytest.mark.parametrize("rotated", [False, True], ids=["with one root", "with a newer root"])
def test_a_root_of_another_repository_is_named_with_the_keys_of_both(
    client: Client, repository: TufRepository, *, rotated: bool
) -> None:
    other = TufRepository()
    for role in ("root", "timestamp", "snapshot", "targets"):
        other.rotate(role)
    other.root.version = 1
    shipped = signed_bytes(other.root, other.signers["root"])
    if rotated:
        repository.rotate("timestamp")
        repository.publish()
    other_client = Client(client.folder, client.url, shipped)
    error = assert_refused(other_client, SignatureError, "is not of this repository")
    for one in (other, repository):
        assert one.signers["root"][0].public_key.keyid[:12] in error.message
    assert str(SHIPPED_ROOT) in error.message
    assert f"{client.url}1.root.json" in error.message
    assert "`trusted_root`" in error.next_step
    assert "not from the server" in error.next_step


@pytest.mark.parametrize(
    "there", [None, "metadata/1.targets.json", TIMESTAMP], ids=["nothing", "targets", "timestamp"]
)
def test_what_a_mirror_has_in_place_of_the_root_does_not_hide_which_file_was_refused(
    client: Client, repository: TufRepository, there: str | None
) -> None:
    """A repository asks another mirror for the file of the last URL."""
    root = repository.files.pop("metadata/1.root.json")
    if there:
        repository.files["metadata/1.root.json"] = repository.files[there]
    repository.resign(TIMESTAMP, [signer("somebody")])
    trust = Client(client.folder, client.url, root).trust()
    with pytest.raises(SignatureError, match="timestamp"):
        trust.refresh(datetime.now(UTC))
    assert trust.last_url == f"{client.url}timestamp.json"


def test_a_forged_timestamp_is_not_taken_for_another_root(client: Client, repository: TufRepository) -> None:
    repository.resign(TIMESTAMP, [signer("somebody")])
    error = assert_refused(client, SignatureError, "timestamp")
    assert "trusted root" not in error.message


@pytest.mark.parametrize(
    "root",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"signed": {"_type": "root"}, "signatures": []}',
        pytest.param(lambda files: files[TIMESTAMP], id="another role"),
        pytest.param(lambda files: files["metadata/1.root.json"][:-1], id="cut off"),
        pytest.param(lambda files: files["metadata/1.root.json"].replace(b"root", b"r00t"), id="changed"),
    ],
)
def test_a_shipped_root_that_is_none_is_refused(
    client: Client, repository: TufRepository, root: bytes | Callable[[dict[str, bytes]], bytes]
) -> None:
    with pytest.raises(TrustError, match=r"trusted root \S+ is not valid"):
        client.trust(root=(root if isinstance(root, bytes) else root(repository.files)) or b" ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"signed": 1, "signatures": 2}',
        b"[" * 16_000,
        b'{"a":' * 3_000,
        b"9" * 16_000,
    ],
    ids=range(9),
)
@pytest.mark.parametrize("path", [TIMESTAMP, "metadata/2.root.json", "metadata/1.targets.json"])
@pytest.mark.usefixtures("undisturbed")
def test_what_is_not_metadata_is_refused_in_words(
    client: Client, server: HttpServer, path: str, body: bytes
) -> None:
    """D93: whatever the bytes are, the error is one of updog's own."""
    server.behave(path, answer(200, body=body))
    assert_refused(client, TrustError, path)


@pytest.mark.parametrize("path", [TIMESTAMP, "metadata/2.root.json", "metadata/1.targets.json"])
@pytest.mark.usefixtures("undisturbed")
def test_the_page_of_a_captive_portal_is_refused_as_trouble_of_the_network(
    client: Client, server: HttpServer, path: str
) -> None:
    """Exit status 5: the timer tries again; nothing is wrong with the repository."""
    server.behave(path, answer(200, body=b"<html>sign in to this network</html>"))
    assert_refused(client, WebPageError, "web page")


@pytest.mark.parametrize("seed", range(60))
def test_a_byte_changed_anywhere_is_never_trusted(
    client: Client, repository: TufRepository, seed: int
) -> None:
    """D51, D93: refused, or (capitals in a signature, an unsigned part) what was signed is the same."""
    chance = random.Random(seed)
    path = chance.choice([TIMESTAMP, "metadata/1.snapshot.json", "metadata/1.targets.json"])
    honest = repository.files[path]
    place = chance.randrange(len(honest))
    spoilt = bytearray(honest)
    spoilt[place] ^= 1 << chance.randrange(8)
    repository.files[path] = bytes(spoilt)
    try:
        client.refresh()
    except (TrustError, DigestError):
        return
    believed = json.loads(
        client.kept()[path.rpartition(".")[0].rpartition(".")[2].rpartition("/")[2] + ".json"]
    )
    assert believed["signed"] == json.loads(honest)["signed"]


# -- failures: network, power, disk --------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["metadata/2.root.json", TIMESTAMP, "metadata/1.snapshot.json", "metadata/1.targets.json"]
)
@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_server_error_is_unreachable_whatever_it_hits(
    client: Client, server: HttpServer, path: str, status: int
) -> None:
    """D59: above all, an error for the next root must not be taken for its absence."""
    server.behave(path, answer(status))
    error = assert_refused(client, UnreachableError, f"HTTP {status}")
    assert path in error.message


@pytest.mark.parametrize("path", [TIMESTAMP, "metadata/1.snapshot.json", "metadata/1.targets.json"])
def test_metadata_that_is_not_there_is_unreachable(client: Client, server: HttpServer, path: str) -> None:
    server.behave(path, answer(404))
    assert_refused(client, UnreachableError, "HTTP 404")


def test_the_next_step_of_the_transport_reaches_the_operator(client: Client, server: HttpServer) -> None:
    """D64."""
    server.behave(TIMESTAMP, plain(headers={"Content-Encoding": "gzip"}))
    assert "compression" in assert_refused(client, UnreachableError, 'Content-Encoding "gzip"').next_step


def test_a_connection_that_breaks_is_unreachable(client: Client, server: HttpServer) -> None:
    """D60."""
    server.behave(TIMESTAMP, plain(cut=10))
    assert_refused(client, UnreachableError, "timestamp")
    server.behave(TIMESTAMP, raw(b""))
    assert_refused(client, UnreachableError, "timestamp")


def test_a_refresh_that_was_interrupted_is_resumed(
    client: Client, server: HttpServer, repository: TufRepository
) -> None:
    """D60: what was verified before the connection broke is kept, the rest follows."""
    client.refresh()
    repository.publish()
    server.behave("metadata/2.targets.json", answer(503), plain())
    assert_refused(client, UnreachableError)
    server.log.clear()
    assert client.refresh().versions["targets"] == 2
    assert server.paths == ["metadata/2.root.json", TIMESTAMP, "metadata/2.targets.json"]


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b'{"signed": {', b"null"], ids=range(4))
@pytest.mark.parametrize(
    "name",
    [
        "timestamp.json",
        "snapshot.json",
        "targets.json",
        "root.json",
        "root_history/1.root.json",
        "root_history/2.root.json",
    ],
)
def test_a_file_that_a_power_cut_left_empty_or_damaged_is_fetched_again(
    client: Client, repository: TufRepository, name: str, content: bytes
) -> None:
    """D14, D76: the kept metadata is a cache; only what the image shipped is needed."""
    repository.rotate("root")
    whole = client.refresh().versions
    before = client.kept()
    (client.folder / name).write_bytes(content)
    assert client.refresh().versions == whole
    assert client.kept() == before


def test_everything_damaged_at_once_is_fetched_again(client: Client, repository: TufRepository) -> None:
    """D76."""
    repository.rotate("root", times=2)
    whole = client.refresh().versions
    for name in client.kept():
        (client.folder / name).write_bytes(b"")
    (client.folder / "root.json").unlink()
    (client.folder / "tmpleftover").write_bytes(b"half a file")
    assert client.refresh().versions == whole


class Unreadable(OsMedium):
    """A disk that fails where one file is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == self._name:
            raise MediumError(f"cannot read {self._name}: Input/output error")
        return super().read_at(descriptor, length, offset)


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json"])
def test_what_was_trusted_last_must_be_readable_or_an_older_repository_would_be_accepted(
    client: Client, repository: TufRepository, name: str
) -> None:
    old = dict(repository.files)
    repository.publish()
    client.refresh()
    before = client.kept()
    repository.files.clear()
    repository.files.update(old)
    with pytest.raises(MediumError, match=rf"{name}: Input/output error"):
        client.trust(medium=Unreadable(name)).refresh(datetime.now(UTC))
    assert client.kept() == before
    assert_refused(client, RollbackError)


@pytest.mark.parametrize("name", ["timestamp.json", "targets.json", "root_history/1.root.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_file_in_the_state_folder_is_an_error_and_not_waited_for(
    client: Client, name: str, make: Callable[[Path], None]
) -> None:
    client.refresh()
    (client.folder / name).unlink()
    make(client.folder / name)
    with pytest.raises(MediumError, match=f"{name} is not a regular file"):
        client.refresh()


def test_a_folder_made_under_a_umask_of_zero_can_be_used_again(client: Client) -> None:
    before = os.umask(0)
    try:
        client.refresh()
    finally:
        os.umask(before)
    client.refresh()


def test_a_kept_file_of_an_attacker_with_the_disk_is_not_trusted(client: Client) -> None:
    """What is kept is verified as if it came from the network."""
    client.refresh()
    evil = TufRepository({"manifest.json": b"evil"})
    evil.signers = {role: [signer("evil")] for role in evil.signers}
    evil.publish()
    for role in ("timestamp", "snapshot", "targets"):
        path = TIMESTAMP if role == "timestamp" else f"metadata/2.{role}.json"
        (client.folder / f"{role}.json").write_bytes(evil.files[path])
    assert client.refresh().target("manifest.json").length == 2


def test_a_state_folder_that_cannot_be_made_is_an_error_in_words(
    tmp_path: Path, repository: TufRepository
) -> None:
    """D80."""
    (tmp_path / "file").write_bytes(b"")
    client = Client(tmp_path / "file" / "tuf", "http://127.0.0.1:1/", repository.first_root)
    with pytest.raises(MediumError, match=f"cannot create {tmp_path}"):
        client.trust()


def test_metadata_that_cannot_be_written_is_an_error_in_words(client: Client) -> None:
    """D71, D80."""
    trust = client.trust()
    (client.folder / "timestamp.json").mkdir()
    with pytest.raises(MediumError, match="cannot keep metadata in") as caught:
        trust.refresh(datetime.now(UTC))
    assert caught.value.status is ExitStatus.FAILED


def test_an_error_that_nobody_expected_is_not_dressed_up(client: Client) -> None:
    """A defect of updog must look like one."""

    class Broken:
        def stream(self, url: str, **_options: object) -> Iterator[bytes]:
            raise ZeroDivisionError(url)

    transport: Any = Broken()
    with pytest.raises(ZeroDivisionError):
        client.trust(transport=transport).refresh(datetime.now(UTC))
