"""validate finds every planted fault by its code, in a folder and over HTTP, and a whole repository clean."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import Metadata, Targets

from repo_tools import config
from repo_tools.cli import cli
from repo_tools.keys.signers import SignerStore
from repo_tools.keys.signing import sign
from repo_tools.repository import editor
from repo_tools.repository.change_log import Change
from repo_tools.repository.published import MANIFEST
from repo_tools.repository.session import writing
from repo_tools.trust.chain import walk
from repo_tools.trust.findings import CODES, Finding, Severity
from repo_tools.trust.source import FolderSource, UrlSource
from repo_tools.upkeep import check
from signpost.console import run
from signpost.medium import OsMedium
from tests.support.http_server import HttpServer, answer, plain
from tests.support.repositories import SmallRepository, later, make_repository
from tests.support.signed_faults import sign_edited_manifest, sign_targets
from tests.support.verity import format_verity
from updog.update_metadata.content import Content
from updog.update_metadata.target_path import target_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuf.api.metadata import Root


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    folder = tmp_path_factory.mktemp("master") / "repo"
    return make_repository(folder, versions=["1.0.0", "1.1.0"], waves="default")


@pytest.fixture
def repository(master: SmallRepository, tmp_path: Path) -> SmallRepository:
    return master.copied(tmp_path / "repo")


def _codes(repository: SmallRepository, **now: float) -> list[str]:
    source = FolderSource(repository.folder)
    report = check.check(source, now=later(repository.now, **now))
    return [finding.code for finding in report.findings]


def _image(repository: SmallRepository) -> Path:
    return next((repository.folder / "targets").glob("*-1.1.0-root.erofs.zst"))


def _migrations(*hops: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["migrations"].update({hop: [] for hop in hops})


def test_a_whole_repository_is_clean(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> None:
    assert _codes(repository) == []
    with repository.served() as url:
        assert check.check(UrlSource(url), now=repository.now).findings == ()
        assert run(cli, ["validate", url]) == 0
    assert run(cli, ["validate", str(repository.folder), "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"event": "result", "clean": True, "targets": 23, "releases": 2, "findings": []}


def _delete_image(repository: SmallRepository) -> None:
    _image(repository).unlink()


def _truncate_image(repository: SmallRepository) -> None:
    _image(repository).write_bytes(_image(repository).read_bytes()[:-1])


def _flip_image(repository: SmallRepository) -> None:
    data = bytearray(_image(repository).read_bytes())
    data[len(data) // 2] ^= 1
    _image(repository).write_bytes(data)


def _add_orphan(repository: SmallRepository) -> None:
    (repository.folder / "targets" / "stray.bin").write_bytes(b"?")


def _delete_manifest(repository: SmallRepository) -> None:
    newest = max(
        (repository.folder / "targets").glob("*.manifest.json"), key=lambda path: path.stat().st_size
    )
    newest.unlink()


def _spoil(name: str, old: bytes, new: bytes) -> Callable[[SmallRepository], None]:
    def plant(repository: SmallRepository) -> None:
        path = repository.folder / "metadata" / name
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))

    return plant


def _delete(name: str) -> Callable[[SmallRepository], None]:
    return lambda repository: (repository.folder / "metadata" / name).unlink()


def _copy(name: str, to: str) -> Callable[[SmallRepository], None]:
    def plant(repository: SmallRepository) -> None:
        metadata = repository.folder / "metadata"
        (metadata / to).write_bytes((metadata / name).read_bytes())

    return plant


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[SmallRepository], None]:
    return lambda repository: sign_edited_manifest(repository, change)


def _content(repository: SmallRepository) -> None:
    with writing(repository.folder, OsMedium(), now=repository.now) as session:
        update = session.manifest.updates[1]
        assert update.contents
        wrong = replace(update.contents, root=Content(size=7, sha256="0" * 64))
        changed = session.manifest.with_changed(replace(update, contents=wrong))
        change = Change(action="edit", subject="the manifest")
        session.commit(changed, [], repository.now, change)


def _malformed(repository: SmallRepository) -> None:
    data = b"not a zstd frame"
    digest = hashlib.sha256(data).hexdigest()
    name = _image(repository).name.partition(".")[2]
    (repository.folder / "targets" / f"{digest}.{name}").write_bytes(data)
    listed = editor.target_file(name, length=len(data), sha256=digest)
    sign_targets(repository, lambda targets: targets.targets.update({name: listed}))


def _root(change: Callable[[Root], object]) -> Callable[[SmallRepository], None]:
    """Sign a changed root in place of version 1, as its owners could."""

    def plant(repository: SmallRepository) -> None:
        root = walk(FolderSource(repository.folder)).root
        assert root is not None
        change(root)
        signers = SignerStore(uris=config.load(repository.folder).signers, folder=repository.folder)
        (repository.folder / "metadata" / "1.root.json").write_bytes(sign(root, signers, root))

    return plant


def _share(role: str, other: str) -> Callable[[SmallRepository], None]:
    """Let a role sign for another one as well."""
    return _root(lambda root: root.roles[other].keyids.append(root.roles[role].keyids[0]))


def _raise_threshold(root: Root) -> None:
    root.roles["timestamp"].threshold = 2


def _swap_targets(ending: str, other: str) -> Callable[[SmallRepository], None]:
    """List one target under the name of another, as a publisher that mixes them up."""

    def plant(repository: SmallRepository) -> None:
        folder = repository.folder / "targets"
        data = next(folder.glob(f"*{other}")).read_bytes()
        name = next(folder.glob(f"*{ending}")).name.partition(".")[2]
        digest = hashlib.sha256(data).hexdigest()
        (folder / target_path(name, digest)).write_bytes(data)
        listed = editor.target_file(name, length=len(data), sha256=digest)
        sign_targets(repository, lambda targets: targets.targets.update({name: listed}))

    return plant


def _unlist(ending: str) -> Callable[[SmallRepository], None]:
    def change(targets: Targets) -> None:
        for name in [name for name in targets.targets if name.endswith(ending)]:
            del targets.targets[name]

    return lambda repository: sign_targets(repository, change)


def _pack(document: dict[str, Any], role: str) -> dict[str, Any]:
    pack: dict[str, Any] = document["updates"][1]["packs"][role]
    return pack


def _wrong_head(document: dict[str, Any]) -> None:
    _pack(document, "root")["deltas"]["1.0.0"]["head_sha256"] = "0" * 64


def _delta_of_boot(document: dict[str, Any]) -> None:
    _pack(document, "root")["deltas"] = _pack(document, "boot")["deltas"]


def _wrong_base(document: dict[str, Any]) -> None:
    deltas = _pack(document, "root")["deltas"]
    deltas["1.1.0"] = deltas.pop("1.0.0")


def _declare_small_slots(repository: SmallRepository) -> None:
    path = repository.folder / "repo.toml"
    path.write_text(f'{path.read_text()}\n[slots]\nroot = "64KiB"\n')


def _migrations_with_a_floor(document: dict[str, Any]) -> None:
    document["updates"][1]["floor"] = "1.0.0"
    document["migrations"] = {"(0.9.0, 1.1.0)": []}


def _waves(**starts: str) -> Callable[[SmallRepository], None]:
    return _update(1, waves={key[1:]: f"{day}T00:00:00Z" for key, day in starts.items()})


def _update(index: int, **members: object) -> Callable[[SmallRepository], None]:
    return _manifest(lambda document: document["updates"][index].update(members))


def _hold(since: str) -> Callable[[SmallRepository], None]:
    def change(document: dict[str, Any]) -> None:
        held = document["updates"].pop(0)
        document["held"] = [{**held, "hold": {"since": f"{since}T00:00:00Z"}}]

    return _manifest(change)


def _key_mode(mode: int) -> Callable[[SmallRepository], None]:
    return lambda repository: (repository.folder / "keys" / "targets.pem").chmod(mode)


def _without_key(repository: SmallRepository) -> None:
    (repository.folder / "keys" / "targets.pem").unlink()


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        pytest.param(_delete_image, "target-missing", id="missing-target"),
        pytest.param(_truncate_image, "target-length", id="truncated-target"),
        pytest.param(_flip_image, "target-digest", id="wrong-hash"),
        pytest.param(_add_orphan, "target-orphan", id="orphan"),
        pytest.param(_delete_manifest, "target-missing", id="missing-manifest"),
        pytest.param(_content, "content-mismatch", id="wrong-raw-digest"),
        pytest.param(_malformed, "image-malformed", id="not-zstd"),
        pytest.param(_delete("1.root.json"), "root-missing", id="no-root"),
        pytest.param(_copy("1.root.json", "3.root.json"), "root-missing", id="gap-in-roots"),
        pytest.param(_copy("1.root.json", "2.root.json"), "root-invalid", id="root-calls-itself-1"),
        pytest.param(
            _spoil("1.root.json", b'"threshold":2', b'"threshold":1'), "root-invalid", id="root-changed"
        ),
        pytest.param(_spoil("1.root.json", b"{", b"["), "root-invalid", id="root-no-json"),
        pytest.param(_copy("3.targets.json", "1.root.json"), "root-invalid", id="root-is-targets"),
        pytest.param(_delete("timestamp.json"), "metadata-missing", id="no-timestamp"),
        pytest.param(_delete("3.snapshot.json"), "metadata-missing", id="no-snapshot"),
        pytest.param(_delete("3.targets.json"), "metadata-missing", id="no-targets"),
        pytest.param(
            _spoil("timestamp.json", b'"version":3}}', b'"version":4}}'), "metadata-signature", id="forged"
        ),
        pytest.param(_spoil("timestamp.json", b"{", b""), "metadata-invalid", id="timestamp-no-json"),
        pytest.param(_copy("3.snapshot.json", "timestamp.json"), "metadata-invalid", id="not-a-timestamp"),
        pytest.param(_copy("2.snapshot.json", "3.snapshot.json"), "metadata-digest", id="old-snapshot"),
        pytest.param(_copy("2.targets.json", "9.targets.json"), "metadata-unnamed", id="unnamed"),
        pytest.param(_copy("2.targets.json", "9.targets.json.tmp"), "leftover", id="leftover"),
        pytest.param(_manifest(lambda document: document.pop("updates")), "manifest-invalid", id="manifest"),
        pytest.param(
            _update(0, images=dict.fromkeys(["boot", "root", "hash"], "x.zst")), "image-unlisted", id="image"
        ),
        pytest.param(_update(1, contents=None), "content-unstated", id="no-contents"),
        pytest.param(
            _update(1, waves={"0": "2027-01-02T00:00:00Z", "20": "2027-01-01T00:00:00Z"}),
            "waves-unordered",
            id="waves",
        ),
        pytest.param(_update(1, max_version="1.0.0"), "max-version-mixed", id="mixed"),
        pytest.param(_waves(_20="2027-01-01"), "waves-gap", id="first-seeds-in-no-wave"),
        pytest.param(_waves(_0="2027-01-01", _2049="2027-01-02"), "waves-gap", id="wave-beyond-the-fleet"),
        pytest.param(_waves(_0="2026-01-01", _20="2027-01-01"), "waves-gap", id="a-year-between-waves"),
        pytest.param(_waves(_0="2027-01-01", _20="2050-01-01"), "waves-far waves-gap", id="a-wave-too-far"),
        pytest.param(_waves(_0="2062-01-01"), "waves-far", id="all-waves-too-far"),
        pytest.param(_hold("2050-01-01"), "hold-ahead", id="held-in-the-future"),
        pytest.param(
            _update(1, published="2050-01-01T00:00:00Z"), "published-ahead", id="published-in-the-future"
        ),
        pytest.param(_update(1, urgent="two\nlines"), "manifest-invalid", id="urgent-without-a-sentence"),
        pytest.param(_update(1, published="yesterday"), "manifest-invalid", id="published-at-no-time"),
        pytest.param(_key_mode(0o644), "key-exposed", id="key-for-all-to-read"),
        pytest.param(_key_mode(0o620), "key-exposed", id="key-for-the-group-to-write"),
        pytest.param(_without_key, "key-missing", id="key-file-gone"),
        pytest.param(_share("targets", "timestamp"), "key-shared", id="targets-key-online"),
        pytest.param(_share("root", "snapshot"), "root-key-shared", id="root-key-online"),
        pytest.param(
            _root(_raise_threshold), "threshold-unreachable metadata-signature", id="threshold-above-keys"
        ),
        pytest.param(_unlist("1.1.0-root.erofs.zst.index"), "pack-unlisted", id="index-unlisted"),
        pytest.param(_unlist("1.1.0-boot.ext4.zst.delta-1.0.0"), "pack-unlisted", id="delta-unlisted"),
        pytest.param(
            _swap_targets("1.1.0-root.erofs.zst.index", "1.0.0-root.erofs.zst.index"),
            "index-mismatch",
            id="index-of-another-image",
        ),
        pytest.param(
            _swap_targets("1.1.0-root.erofs.zst.index", "1.1.0-root.erofs.zst"),
            "index-mismatch",
            id="index-is-no-index",
        ),
        pytest.param(
            _swap_targets("1.1.0-boot.ext4.zst.fingerprints", "1.0.0-boot.ext4.zst.fingerprints"),
            "index-mismatch",
            id="fingerprints-of-another-image",
        ),
        pytest.param(_manifest(_wrong_head), "delta-mismatch", id="head-of-a-delta"),
        pytest.param(_manifest(_delta_of_boot), "delta-mismatch", id="delta-of-another-image"),
        pytest.param(_manifest(_wrong_base), "delta-mismatch", id="delta-from-another-base"),
        pytest.param(_manifest(_migrations_with_a_floor), "migration-missing", id="migrations-of-a-hop"),
        pytest.param(_update(1, floor="1.0.1"), "floor-unpublished newest-unreachable", id="floor"),
        pytest.param(_manifest(_migrations("(0.9.0, 1.0.0)")), "migration-missing", id="migration-gap"),
        pytest.param(
            _manifest(lambda document: document["migrations"].update({"(1.0.0, 1.1.0)": ["m.lz4"]})),
            "migration-unlisted",
            id="migration-unlisted",
        ),
    ],
)
def test_a_planted_fault_is_found(
    repository: SmallRepository,
    capsys: pytest.CaptureFixture[str],
    plant: Callable[[SmallRepository], None],
    code: str,
) -> None:
    plant(repository)
    codes = set(code.split())
    assert set(_codes(repository)) == codes
    status = run(cli, ["--repo", str(repository.folder), "validate"])
    assert status == (0 if all(CODES[code][0] is Severity.NOTE for code in codes) else 1)
    captured = capsys.readouterr()
    assert all(f" {code}: " in captured.out for code in codes)
    assert "next: " in captured.out


def test_a_floor_at_a_published_version_is_in_order(repository: SmallRepository) -> None:
    _update(1, floor="1.0.0")(repository)
    assert _codes(repository) == []


def test_nothing_is_counted_where_no_targets_metadata_verify(repository: SmallRepository) -> None:
    _spoil("timestamp.json", b'"version":', b'"version":1')(repository)
    report = check.check(FolderSource(repository.folder), now=repository.now)
    assert report.findings
    assert (report.targets, report.updates) == (0, 0)


def test_snapshot_and_timestamp_may_share_a_key(repository: SmallRepository) -> None:
    _share("snapshot", "timestamp")(repository)
    assert _codes(repository) == []


@pytest.mark.parametrize("words", [["--slot-size", "root=64KiB"], []])
def test_an_image_that_does_not_fit_the_declared_partitions(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    place = str(repository.folder)
    assert run(cli, ["validate", place]) == 0
    if not words:
        _declare_small_slots(repository)
    capsys.readouterr()
    assert run(cli, ["validate", place, "--json", *words]) == 1
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert [(finding["code"], finding["place"]) for finding in findings] == [
        ("image-too-large", f"manifest.json updates[{number}].contents.root.size") for number in (0, 1)
    ]


class _Plain(SimpleHTTPRequestHandler):
    """A web server that does not support ranges and lets caches keep everything for a day."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "public, max-age=86400")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


def test_a_web_server_that_serves_badly_is_told_how(repository: SmallRepository) -> None:
    handler = partial(_Plain, directory=str(repository.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        report = check.check(UrlSource(f"http://127.0.0.1:{server.server_port}"), now=repository.now)
        server.shutdown()
    assert [finding.code for finding in report.findings] == ["ranges-unsupported", "timestamp-cached"]


def test_a_remote_target_that_breaks_off_is_read_on(repository: SmallRepository) -> None:
    name = _image(repository).name
    files = {
        str(path.relative_to(repository.folder)): path.read_bytes()
        for kind in ("metadata", "targets")
        for path in (repository.folder / kind).iterdir()
    }
    with HttpServer(files) as server:
        server.behave(f"targets/{name}", plain(cut=1000), plain(cut=5000), plain())
        report = check.check(UrlSource(server.url("").rstrip("/")), now=repository.now)
        starts = [request.start for request in server.log if name in request.path]
    assert report.findings == ()
    assert starts == [0, 1000, 6000]


def test_findings_as_sarif(repository: SmallRepository, tmp_path: Path) -> None:
    _flip_image(repository)
    _update(1, max_version="1.0.0")(repository)
    file = tmp_path / "validate.sarif"
    assert run(cli, ["validate", str(repository.folder), "--sarif", str(file)]) == 1
    document = json.loads(file.read_text())
    assert document["version"] == "2.1.0"
    (sarif,) = document["runs"]
    rules = sarif["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CODES)
    results = {result["ruleId"]: result for result in sarif["results"]}
    assert set(results) == {"target-digest", "max-version-mixed"}
    for code, result in results.items():
        assert rules[result["ruleIndex"]]["id"] == code
        assert result["level"] == "error"
    (location,) = results["target-digest"]["locations"]
    place = location["physicalLocation"]["artifactLocation"]["uri"]
    assert (repository.folder / place).is_file()
    (location,) = results["max-version-mixed"]["locations"]
    assert location["logicalLocations"] == [{"fullyQualifiedName": "synthetic x86_64"}]


def test_every_code_is_explained_in_the_reference() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "findings.md").read_text()
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `")]
    assert [(code.strip(" `"), severity.strip(), step.strip()) for code, severity, step in rows] == [
        (code, str(severity), step) for code, (severity, step) in CODES.items()
    ]


def test_a_manifest_that_is_not_listed_is_a_finding(repository: SmallRepository) -> None:
    sign_targets(repository, lambda targets: targets.targets.pop(MANIFEST))
    assert _codes(repository) == ["manifest-missing"]


@pytest.mark.parametrize(
    "hashes",
    [{"sha512": "0" * 128}, {"sha256": "../../../x"}, {"sha256": "A" * 64}, {"sha256": "0" * 63}],
    ids=["no-sha256", "a-path", "upper-case", "63-digits"],
)
def test_a_target_listed_without_a_valid_sha256_is_a_finding(
    repository: SmallRepository, hashes: dict[str, str]
) -> None:
    name = _image(repository).name.partition(".")[2]
    sign_targets(repository, lambda targets: setattr(targets.targets[name], "hashes", hashes))
    assert _codes(repository) == ["target-invalid"]


@pytest.mark.skipif(shutil.which("veritysetup") is None, reason="Debian package cryptsetup-bin")
@pytest.mark.parametrize("is_junk", [False, True], ids=["other-tree", "junk"])
def test_a_verity_tree_of_another_root_or_of_none_is_a_finding(
    repository: SmallRepository, tmp_path: Path, *, is_junk: bool
) -> None:
    """Two releases, each published with its own hash image; then signed with these exchanged."""
    for version in ("2.0.0", "2.1.0"):
        root, tree = tmp_path / version, tmp_path / f"{version}.hash"
        root.write_bytes(version.encode() * 20480)
        format_verity(root, tree)
        if is_junk and version == "2.1.0":
            root.write_bytes(b"no sectors, so no tree")
            tree.write_bytes(b"junk" * 2500)
        repository.publish(version, root=root, hash=tree, deltas=0)
    assert _codes(repository) == []

    def exchange(document: dict[str, Any]) -> None:
        one, other = document["updates"][-2:]
        for member in ("images", "contents", "packs"):
            one[member]["hash"], other[member]["hash"] = other[member]["hash"], one[member]["hash"]

    sign_edited_manifest(repository, exchange)
    found = check.check(FolderSource(repository.folder), now=repository.now).findings
    assert [(finding.code, finding.subject.rpartition("-root.")[0][-5:]) for finding in found] == [
        ("verity-mismatch", "2.0.0"),
        ("verity-mismatch", "2.1.0"),
    ]
    assert ("has no superblock" in found[0].message) is is_junk


def test_a_max_version_that_is_not_published_is_a_finding(repository: SmallRepository) -> None:
    def raise_all(document: dict[str, Any]) -> None:
        for update in document["updates"]:
            update["max_version"] = "9.0.0"

    sign_edited_manifest(repository, raise_all)
    assert _codes(repository) == ["max-version-high"]


def test_everything_withdrawn_is_a_note(repository: SmallRepository) -> None:
    for version in ("1.1.0", "1.0.0"):
        assert run(cli, ["--repo", str(repository.folder), "withdraw", version]) == 0
    assert _codes(repository) == ["nothing-on-offer"]


def test_migrations_that_connect_are_fine(repository: SmallRepository) -> None:
    sign_edited_manifest(repository, _migrations("(1.0.0, 1.1.0)"))
    assert _codes(repository) == []


@pytest.mark.parametrize(
    ("days", "expired"),
    [
        (3, []),
        (6, ["expires-soon"]),
        (8, ["metadata-expired"]),
        (31, ["metadata-expired"] * 2),
        (91, ["metadata-expired"] * 3),
        (365, ["root-expired", *["metadata-expired"] * 3]),
    ],
)
def test_expired_roles_are_findings(repository: SmallRepository, days: int, expired: list[str]) -> None:
    assert _codes(repository, days=days) == expired


def test_a_root_without_consistent_snapshots_is_a_finding(repository: SmallRepository) -> None:
    path = repository.folder / "metadata" / "1.root.json"
    root = walk(FolderSource(repository.folder)).root
    assert root is not None
    root.consistent_snapshot = False
    signers = SignerStore(uris=config.load(repository.folder).signers, folder=repository.folder)
    path.write_bytes(sign(root, signers, root))
    assert _codes(repository) == ["consistent-snapshot-off"]


def test_metadata_without_versions_in_their_names_are_named(repository: SmallRepository) -> None:
    _root(lambda root: setattr(root, "consistent_snapshot", False))(repository)
    metadata = repository.folder / "metadata"
    newest = max(metadata.glob("*.snapshot.json"))
    newest.rename(metadata / "snapshot.json")
    findings = check.check(FolderSource(repository.folder), now=repository.now).findings
    assert {finding.code for finding in findings} == {"consistent-snapshot-off"}
    assert any(finding.place.endswith(newest.name) for finding in findings)


def test_too_few_signatures_on_the_next_root_are_a_finding(repository: SmallRepository) -> None:
    metadata = repository.folder / "metadata"
    root = Metadata.from_bytes((metadata / "1.root.json").read_bytes())
    root.signed.version = 2
    (metadata / "2.root.json").write_bytes(root.to_bytes())
    source = FolderSource(repository.folder)
    (finding,) = check.check(source, now=repository.now).findings
    assert (finding.code, finding.place) == ("root-invalid", "metadata/2.root.json")
    assert "0 of the 2 valid signatures" in finding.message


def test_over_http_the_same_faults_are_found(repository: SmallRepository) -> None:
    _flip_image(repository)
    with repository.served() as url:
        report = check.check(UrlSource(url), now=repository.now)
    assert [finding.code for finding in report.findings] == ["target-digest"]


def test_a_shallow_check_looks_without_reading(repository: SmallRepository) -> None:
    _flip_image(repository)
    with repository.served() as url:
        assert check.check(UrlSource(url), now=repository.now, options=check.CheckOptions(deep=False)).clean
        _truncate_image(repository)
        report = check.check(UrlSource(url), now=repository.now, options=check.CheckOptions(deep=False))
        assert [finding.code for finding in report.findings] == ["target-length"]
        _delete_image(repository)
        report = check.check(UrlSource(url), now=repository.now, options=check.CheckOptions(deep=False))
        assert [finding.code for finding in report.findings] == ["target-missing"]


@pytest.mark.parametrize(
    ("place", "status", "code"),
    [("http://127.0.0.1:9/", 5, "unreachable"), ("nowhere", 2, "no-repository")],
)
def test_a_repository_that_cannot_be_read_is_an_error_with_its_code(
    capsys: pytest.CaptureFixture[str], place: str, status: int, code: str
) -> None:
    assert run(cli, ["validate", place, "--json"]) == status
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_file_url_is_read_as_its_folder(
    repository: SmallRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = repository.folder.rename(repository.folder.with_name("a repo"))
    assert run(cli, ["validate", moved.as_uri()]) == 0
    assert run(cli, ["validate", moved.as_uri().replace("file:///", "file://localhost/")]) == 0
    assert run(cli, ["validate", moved.as_uri().replace("file:///", "file:/"), "--json"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("s3://bucket/os", "s3://"),
        ("file://elsewhere/srv/os", "'elsewhere'"),
        ("ftp://user:secret@host/os", "ftp://"),
    ],
)
def test_a_url_that_is_not_read_is_named_as_what_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str, named: str
) -> None:
    for words in (
        ["validate", place],
        ["mirror", place, str(tmp_path / "copy"), "--trusted-root", str(tmp_path / "root.json")],
    ):
        (tmp_path / "root.json").write_bytes(b"{}")
        assert run(cli, words) == 2
        message = capsys.readouterr().err
        assert named in message
        assert "secret" not in message


def test_a_server_that_denies_everything_is_named_as_that(capsys: pytest.CaptureFixture[str]) -> None:
    with HttpServer({}) as server:
        for path in ("metadata/1.root.json", "metadata/timestamp.json"):
            server.behave(path, answer(403))
        assert run(cli, ["validate", server.url("").rstrip("/")]) == 5
        message = capsys.readouterr().err
        assert "403" in message
        assert "access is denied" in message
        assert "root-missing" not in message


def test_a_bucket_that_answers_403_for_what_is_not_there_is_read(repository: SmallRepository) -> None:
    files = {
        str(path.relative_to(repository.folder)): path.read_bytes()
        for kind in ("metadata", "targets")
        for path in (repository.folder / kind).iterdir()
    }
    lost = files.pop("metadata/1.root.json")
    with HttpServer(files) as server:
        for name in ("1", "2"):
            server.behave(f"metadata/{name}.root.json", answer(403))
        url = server.url("").rstrip("/")
        (finding,) = check.check(UrlSource(url), now=repository.now).findings
        assert finding.code == "root-missing"
    with HttpServer({**files, "metadata/1.root.json": lost}) as server:
        server.behave("metadata/2.root.json", answer(403))
        assert check.check(UrlSource(server.url("").rstrip("/")), now=repository.now).findings == ()


def test_a_finding_outside_the_table_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="not in the table"):
        Finding(code="odd", place="", message="")


def test_every_next_step_is_a_sentence() -> None:
    assert all(step[0].isupper() and step.endswith(".") for _, step in CODES.values())
