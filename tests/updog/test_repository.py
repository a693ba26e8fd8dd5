"""The repository as one check sees it, over a real web server: settings, manifest, targets."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from signpost.errors import ExitStatus, MediumError, ToolError
from signpost.medium import OsMedium
from tests.support.http_server import HttpServer, answer, endless, plain
from tests.support.tuf_repositories import TufRepository, in_days
from updog import config
from updog.errors import (
    DigestError,
    EndlessDataError,
    ExpiredError,
    MissingTargetError,
    RefusedError,
    TrustError,
    UnreachableError,
)
from updog.image.index import Span
from updog.no_proxy import entries_of
from updog.repository import Repository, http_settings
from updog.transport import TransportSettings
from updog.update_metadata.errors import ManifestError
from updog.update_metadata.manifest import MAX_MANIFEST_BYTES
from updog.update_metadata.outcomes import pseudonym
from updog.update_metadata.version import Version
from updog.url import WEB, Url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http_server import Behaviour, Exchange
    from updog.config import Config

RUNNING = Version.parse("1.0.0")
IMAGE = bytes(range(256)) * 64


def manifest(version: str) -> bytes:
    """Return a manifest with one update."""
    images = {role: f"{version}-{role}.zst" for role in ("boot", "root", "hash")}
    facts = {"variant": "v", "arch": "x86_64", "version": version, "max_version": version}
    return json.dumps({"updates": [{**facts, "waves": {}, "images": images}], "migrations": {}}).encode()


@pytest.fixture
def signed() -> TufRepository:
    return TufRepository({"manifest.json": manifest("1.1.0"), "image.zst": IMAGE})


@pytest.fixture
def server(signed: TufRepository) -> Iterator[HttpServer]:
    with HttpServer(signed.files) as server:
        yield server


class Node:
    """A node's configuration, and what it finds at each visit."""

    def __init__(self, folder: Path, server: HttpServer, signed: TufRepository) -> None:
        self.folder = folder
        self._server = server
        (folder / "root.json").write_bytes(signed.first_root)

    def config(self, **more: object) -> Config:
        values = {
            "metadata_base_url": self._server.url("metadata"),
            "targets_base_url": self._server.url("targets"),
            "trusted_root": "root.json",
            "state_dir": "state",
            "seed": 77,
            "arch": "x86_64",
            "machine_id": "machine-id",
            "download_tries": 1,
            "stall_timeout": 5,
            **more,
        }
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        return config.parse(text, self.folder)

    def visit(self, *, latest_known: datetime | None = None, **more: object) -> Repository:
        settings = self.config(**more)
        return Repository(
            settings,
            http_settings(settings, RUNNING),
            medium=OsMedium(),
            now=datetime.now(UTC),
            latest_known=latest_known,
        )

    def kept(self) -> dict[str, bytes]:
        """Return the kept manifests."""
        return {path.name: path.read_bytes() for path in (self.folder / "state" / "manifest").glob("*")}


@pytest.fixture
def node(tmp_path: Path, server: HttpServer, signed: TufRepository) -> Node:
    return Node(tmp_path, server, signed)


def version_of(repository: Repository) -> str:
    (update,) = repository.manifest().updates
    return str(update.version)


# -- settings ------------------------------------------------------------------------------------------


def test_the_transport_is_as_configured(node: Node, server: HttpServer) -> None:
    found = http_settings(
        node.config(
            connect_timeout=3,
            stall_timeout=4,
            minimum_rate=5,
            download_tries=6,
            https_proxy="http://proxy:3128",
            no_proxy=["a", "b"],
            limit_rate=7,
            ca_file="ca.pem",
            client_certificate="node.pem",
            client_key="/etc/node.key",
            targets_mirrors=["http://b/t"],
        ),
        RUNNING,
    )
    assert found == TransportSettings(
        connect_timeout=3,
        stall_timeout=4,
        minimum_rate=5,
        tries=6,
        https_proxy=Url.parse("http://proxy:3128", WEB),
        no_proxy=entries_of(("a", "b")),
        limit_rate=7,
        ca_file=str(node.folder / "ca.pem"),
        client_certificate=str(node.folder / "node.pem"),
        client_key="/etc/node.key",
        query={"seed": "77", "version": "1.0.0", "arch": "x86_64"},
        mirrors={server.url("metadata/"): (), server.url("targets/"): ("http://b/t/",)},
        urls=tuple(
            Url.parse(url, WEB) for url in (server.url("metadata/"), server.url("targets/"), "http://b/t/")
        ),
    )


def test_seed_and_version_are_sent_with_metadata_manifest_and_images(node: Node, server: HttpServer) -> None:
    repository = node.visit()
    repository.manifest()
    b"".join(repository.verified(repository.target("image.zst")))
    assert len(server.log) == 6
    assert all(
        request.query == {"seed": "77", "version": "1.0.0", "arch": "x86_64"} for request in server.log
    )


def test_requests_name_the_node_by_its_pseudonym_and_say_what_it_runs(node: Node) -> None:
    machine_id = "0123456789abcdef0123456789abcdef"
    (node.folder / "machine-id").write_text(f"{machine_id}\n", encoding="ascii")
    settings = node.config(channel="stable")
    query = http_settings(settings, RUNNING, variant="vm").query
    assert query == {
        "seed": "77",
        "version": "1.0.0",
        "node": pseudonym(machine_id),
        "variant": "vm",
        "arch": "x86_64",
        "channel": "stable",
    }


@pytest.mark.parametrize("machine_id", [None, b"", b"uninitialized\n", b"\xff\xfe"])
def test_a_node_without_a_usable_machine_id_sends_no_pseudonym(node: Node, machine_id: bytes | None) -> None:
    if machine_id is not None:
        (node.folder / "machine-id").write_bytes(machine_id)
    assert "node" not in http_settings(node.config(), RUNNING).query


def test_nothing_is_sent_about_the_node_if_that_is_switched_off(node: Node, server: HttpServer) -> None:
    node.visit(send_query=False).manifest()
    assert {tuple(request.query) for request in server.log} == {()}


def test_a_node_without_a_seed_sends_the_one_of_its_machine_id(node: Node) -> None:
    (node.folder / "machine-id").write_text("0123456789abcdef0123456789abcdef\n", encoding="ascii")
    settings = node.config(machine_id="machine-id")
    assert "seed" in http_settings(settings, RUNNING).query


# -- the manifest --------------------------------------------------------------------------------------


def test_the_manifest_is_verified_read_and_kept_under_its_hash(node: Node, signed: TufRepository) -> None:
    assert version_of(node.visit()) == "1.1.0"
    (path,) = [path for path in signed.files if path.endswith(".manifest.json")]
    assert node.kept() == {path.rpartition("/")[2].partition(".")[0]: manifest("1.1.0")}


def test_a_check_without_news_makes_exactly_two_requests(node: Node, server: HttpServer) -> None:
    """The next root and the timestamp: what a fleet costs its server while nothing happens."""
    node.visit().manifest()
    server.log.clear()
    assert version_of(node.visit()) == "1.1.0"
    assert server.paths == ["metadata/2.root.json", "metadata/timestamp.json"]
    assert sum(request.sent for request in server.log) < 1500


def test_a_new_manifest_takes_the_place_of_the_old_one(node: Node, signed: TufRepository) -> None:
    node.visit().manifest()
    signed.put("manifest.json", manifest("1.2.0"))
    signed.publish()
    assert version_of(node.visit()) == "1.2.0"
    assert list(node.kept().values()) == [manifest("1.2.0")]


@pytest.mark.parametrize("damage", [b"", b"{}", manifest("6.6.6")], ids=["empty", "other", "forged"])
def test_a_kept_manifest_that_is_not_the_signed_one_is_fetched_again(node: Node, damage: bytes) -> None:
    """D76."""
    node.visit().manifest()
    (name,) = node.kept()
    (node.folder / "state" / "manifest" / name).write_bytes(damage)
    assert version_of(node.visit()) == "1.1.0"
    assert node.kept() == {name: manifest("1.1.0")}


def test_a_channel_has_its_own_manifest_signed_by_its_own_key(node: Node, signed: TufRepository) -> None:
    signed.delegate("beta", ["beta/*"])
    signed.put("beta/manifest.json", manifest("2.0.0-beta.1"), role="beta")
    signed.publish()
    assert version_of(node.visit(channel="beta")) == "2.0.0-beta.1"
    assert version_of(node.visit()) == "1.1.0"


def test_an_unknown_channel_is_a_missing_target_by_name(node: Node) -> None:
    """D87."""
    with pytest.raises(MissingTargetError, match=r"'nightly/manifest\.json'"):
        node.visit(channel="nightly").manifest()


def test_a_manifest_that_nobody_could_hold_is_refused_before_it_is_fetched(
    node: Node, server: HttpServer, signed: TufRepository
) -> None:
    """D49."""
    signed.targets.targets["manifest.json"].length = MAX_MANIFEST_BYTES + 1
    signed.publish()
    with pytest.raises(TrustError, match="too many for a manifest"):
        node.visit().manifest()
    assert not [path for path in server.paths if path.startswith("targets/")]


@pytest.mark.parametrize(
    "sha256", ["../../../victim", "../victim", "/etc/hostname", "", "A" * 64, "0" * 63], ids=range(6)
)
def test_a_signed_hash_that_is_a_path_is_refused_and_touches_no_file(
    node: Node, server: HttpServer, signed: TufRepository, sha256: str
) -> None:
    """Otherwise a holder of the targets key could remove and create files as root."""
    assert version_of(node.visit()) == "1.1.0"
    (node.folder / "victim").write_bytes(b"of somebody else")
    signed.targets.targets["manifest.json"].hashes = {"sha256": sha256}
    signed.publish()
    before = {path: path.read_bytes() for path in node.folder.rglob("*") if path.is_file()}
    served = len([path for path in server.paths if path.startswith("targets/")])
    with pytest.raises(TrustError, match="64 lower-case hexadecimal digits"):
        node.visit().manifest()
    after = {path: path.read_bytes() for path in node.folder.rglob("*") if path.is_file()}
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    assert all(path.parent == node.folder / "state" / "tuf" for path in changed)
    assert len([path for path in server.paths if path.startswith("targets/")]) == served


@pytest.mark.parametrize(
    ("spoilt", "error", "status"),
    [
        (manifest("6.6.6"), DigestError, ExitStatus.REFUSED),
        (manifest("1.1.0")[:-1], DigestError, ExitStatus.REFUSED),
        (manifest("1.1.0") + b" ", EndlessDataError, ExitStatus.REFUSED),
        (None, UnreachableError, ExitStatus.UNREACHABLE),
    ],
    ids=["wrong hash", "too short", "too long", "gone"],
)
def test_a_manifest_that_is_not_what_was_signed_is_refused_and_not_kept(
    node: Node, signed: TufRepository, spoilt: bytes | None, error: type[ToolError], status: ExitStatus
) -> None:
    """D51."""
    (path,) = [path for path in signed.files if path.endswith(".manifest.json")]
    if spoilt is None:
        del signed.files[path]
    else:
        signed.files[path] = spoilt
    with pytest.raises(error) as caught:
        node.visit().manifest()
    assert caught.value.status is status
    assert node.kept() == {}


def test_an_endless_manifest_is_cut_off(node: Node, server: HttpServer, signed: TufRepository) -> None:
    """D49."""
    (path,) = [path for path in signed.files if path.endswith(".manifest.json")]
    server.behave(path, endless())
    with pytest.raises(EndlessDataError):
        node.visit().manifest()
    assert node.kept() == {}


@pytest.mark.parametrize("text", [b"", b"not json", b"[]", b'{"updates": 5}'], ids=range(4))
def test_a_signed_manifest_that_cannot_be_read_is_an_error_in_words(
    node: Node, signed: TufRepository, text: bytes
) -> None:
    """D93: signed, but wrong."""
    signed.put("manifest.json", text)
    signed.publish()
    with pytest.raises(ManifestError):
        node.visit().manifest()


# -- targets ---------------------------------------------------------------------------------------------


def test_a_target_streams_from_any_byte(node: Node, server: HttpServer) -> None:
    """D70."""
    repository = node.visit()
    target = repository.target("image.zst")
    assert b"".join(repository.stream(target)) == IMAGE
    assert b"".join(repository.stream(target, 5000)) == IMAGE[5000:]
    assert server.log[-1].start == 5000


def test_a_verified_target_is_whole_or_an_error(node: Node, server: HttpServer) -> None:
    """D51, D60."""
    repository = node.visit(download_tries=3)
    target = repository.target("image.zst")
    path = f"targets/{target.path}"
    server.behave(path, plain(cut=len(IMAGE) // 2), plain())
    assert b"".join(repository.verified(target)) == IMAGE
    server.behave(path, plain())
    server.files[path] = IMAGE[:-1] + b"x"
    with pytest.raises(DigestError, match=r"image\.zst has SHA-256"):
        b"".join(repository.verified(target))
    server.files[path] = IMAGE[:-1]
    with pytest.raises(DigestError, match="ends after 16383 of the 16384 bytes"):
        b"".join(repository.verified(target))


def test_a_target_that_is_not_served_is_unreachable(node: Node, server: HttpServer) -> None:
    repository = node.visit()
    target = repository.target("image.zst")
    server.behave(f"targets/{target.path}", answer(403))
    with pytest.raises(UnreachableError, match="HTTP 403"):
        b"".join(repository.stream(target))


def test_a_repository_without_consistent_snapshots_is_named(
    node: Node, signed: TufRepository, server: HttpServer
) -> None:
    signed.root.version += 1
    signed.root.consistent_snapshot = False
    signed.publish_root(signed.signers["root"])
    for name in ("snapshot", "targets"):
        signed.files[f"metadata/{name}.json"] = signed.files[f"metadata/1.{name}.json"]
    repository = node.visit()
    path = f"targets/{repository.target('manifest.json').path}"
    server.files.pop(path)
    with pytest.raises(UnreachableError, match="does not use consistent snapshots"):
        repository.manifest()


# -- trust -----------------------------------------------------------------------------------------------


def test_a_repository_that_is_not_trusted_is_not_there_at_all(node: Node, signed: TufRepository) -> None:
    """D47."""
    signed.publish(expires=in_days(-1))
    with pytest.raises(ExpiredError) as caught:
        node.visit()
    assert isinstance(caught.value, RefusedError)


def test_the_latest_known_time_is_held_against_the_repository(node: Node) -> None:
    """D56."""
    with pytest.raises(ExpiredError, match="was signed on"):
        node.visit(latest_known=in_days(31))
    assert version_of(node.visit(latest_known=in_days(29))) == "1.1.0"


def test_a_trusted_root_that_is_not_there_is_named(node: Node, server: HttpServer) -> None:
    (node.folder / "root.json").unlink()
    with pytest.raises(MediumError, match=r"root\.json"):
        node.visit()
    assert server.log == []


def test_a_repository_on_a_stick_is_trusted_the_same_way(
    tmp_path: Path, node: Node, signed: TufRepository
) -> None:
    """D58: file URLs, with folders and names as they are served."""
    base = signed.write_to(tmp_path / "usb stick").as_uri()
    repository = node.visit(metadata_base_url=f"{base}/metadata/", targets_base_url=f"{base}/targets")
    assert version_of(repository) == "1.1.0"
    assert b"".join(repository.verified(repository.target("image.zst"))) == IMAGE


# -- mirrors (D65) -----------------------------------------------------------------------------------------


@pytest.fixture
def other(signed: TufRepository) -> Iterator[HttpServer]:
    with HttpServer(dict(signed.files)) as other:
        yield other


def with_mirror(node: Node, other: HttpServer) -> Repository:
    return node.visit(metadata_mirrors=[other.url("metadata")], targets_mirrors=[other.url("targets")])


def test_a_mirror_is_not_asked_where_the_first_server_is_well(
    node: Node, server: HttpServer, other: HttpServer
) -> None:
    assert version_of(with_mirror(node, other)) == "1.1.0"
    assert (len(server.log), other.log) == (5, [])


@pytest.mark.parametrize("fault", ["other bytes", "not JSON", "not there", "endless"])
@pytest.mark.parametrize("name", ["metadata/timestamp.json", "manifest"])
def test_what_one_server_spoils_the_mirror_has(
    node: Node, server: HttpServer, other: HttpServer, signed: TufRepository, fault: str, name: str
) -> None:
    """D65."""
    path = (
        name
        if name in signed.files
        else next(path for path in signed.files if path.endswith("manifest.json"))
    )
    server.files = dict(signed.files)
    spoilt = {
        "other bytes": plain_of(server, path, bytes(len(signed.files[path]))),
        "not JSON": plain_of(server, path, b"{"),
        "not there": answer(404),
        "endless": endless(),
    }
    server.behave(path, spoilt[fault])
    assert version_of(with_mirror(node, other)) == "1.1.0"
    assert path in other.paths


def test_expired_metadata_of_one_server_is_fresh_at_the_mirror(
    node: Node, server: HttpServer, other: HttpServer, signed: TufRepository
) -> None:
    """D65 with D47: a server that is no longer updated does not freeze the fleet."""
    fresh = dict(signed.files)
    signed.timestamp.expires = in_days(-1)
    signed.publish()
    server.files, other.files = dict(signed.files), fresh
    with pytest.raises(ExpiredError):
        node.visit()
    assert version_of(with_mirror(node, other)) == "1.1.0"


def test_what_no_server_has_right_is_refused_and_nothing_is_kept(
    node: Node, server: HttpServer, other: HttpServer, signed: TufRepository
) -> None:
    path = next(path for path in signed.files if path.endswith("manifest.json"))
    for each in (server, other):
        each.behave(path, plain_of(each, path, b"{}"))
    with pytest.raises(DigestError):
        with_mirror(node, other).manifest()
    assert node.kept() == {}


def test_ranges_of_a_target_cross_to_the_byte(node: Node, server: HttpServer) -> None:
    repository = node.visit()
    target = repository.target("image.zst")
    before, asked = repository.received, len(server.log)
    spans = [Span(offset=10, length=20), Span(offset=8000, length=100)]
    found = [b"".join(blocks) for _, blocks in repository.ranges(target, spans)]
    assert found == [IMAGE[10:30], IMAGE[8000:8100]]
    assert repository.received - before == sum(request.sent for request in server.log[asked:]) == 120


def plain_of(server: HttpServer, path: str, content: bytes) -> Behaviour:
    """Serve other content under a path, as well as any server would."""

    def behave(exchange: Exchange) -> None:
        exchange.content = content
        plain()(exchange)

    assert path in server.files
    return behave
