"""validate finds every planted fault by its code, in a folder and over HTTP, and a whole repository clean."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tuf.api.metadata import Metadata, Targets

from repo_tools import check, config, editor
from repo_tools.chain import walk
from repo_tools.changes import Change
from repo_tools.cli import cli
from repo_tools.findings import CODES, Finding, Severity
from repo_tools.keys import SignerStore
from repo_tools.session import MANIFEST, writing
from repo_tools.signing import sign
from repo_tools.source import FolderSource, UrlSource
from repo_tools.store import file_of
from signpost.console import run
from signpost.medium import OsMedium
from tests.support.repositories import SmallRepository, later, make_repository
from updog.update_metadata.manifest import Content

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=["1.0.0", "1.1.0"], waves="default")


def _codes(repository: SmallRepository, **now: float) -> list[str]:
    source = FolderSource(repository.folder)
    report = check.check(source, now=later(repository.now, **now))
    return [finding.code for finding in report.findings]


def _image(repository: SmallRepository) -> Path:
    return next((repository.folder / "targets").glob("*-1.1.0-root.erofs.zst"))


def _sign_manifest(repository: SmallRepository, data: bytes) -> None:
    """Sign any bytes as the manifest, as a publisher with the keys and no sense could."""
    folder = repository.folder
    old = walk(FolderSource(folder)).targets
    assert old is not None
    digest = hashlib.sha256(data).hexdigest()
    (folder / "targets" / file_of(MANIFEST, digest)).write_bytes(data)
    listed = editor.target_file(MANIFEST, length=len(data), sha256=digest)
    _sign_targets(repository, lambda targets: targets.targets.update({MANIFEST: listed}))


def _sign_targets(repository: SmallRepository, change: Callable[[Targets], object]) -> None:
    """Sign changed targets metadata and whatever names them."""
    folder = repository.folder
    chain = walk(FolderSource(folder))
    assert chain.root
    assert chain.targets
    assert chain.snapshot
    assert chain.timestamp
    signers = SignerStore(uris=config.load(folder).signers, folder=folder)
    change(chain.targets.signed)
    version = chain.targets.signed.version + 1
    expires = chain.targets.signed.expires
    new = editor.targets_after(chain.targets.signed, {}, version=version, expires=expires)
    targets = sign(new, signers, chain.root)
    meta = editor.meta_file(targets, version)
    snapshot = sign(
        editor.snapshot_after(chain.snapshot.signed, meta, version=version, expires=expires),
        signers,
        chain.root,
    )
    meta = editor.meta_file(snapshot, version)
    timestamp = sign(
        editor.timestamp_after(chain.timestamp.signed, meta, version=version, expires=expires),
        signers,
        chain.root,
    )
    (folder / "metadata" / f"{version}.targets.json").write_bytes(targets)
    (folder / "metadata" / f"{version}.snapshot.json").write_bytes(snapshot)
    (folder / "metadata" / "timestamp.json").write_bytes(timestamp)


def _edited(repository: SmallRepository, change: Callable[[dict[str, Any]], object]) -> None:
    """Sign the manifest with a change made to its JSON."""
    with writing(repository.folder, OsMedium()) as session:
        document = json.loads(session.manifest.to_json())
    change(document)
    _sign_manifest(repository, json.dumps(document).encode())


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
    return lambda repository: _edited(repository, change)


def _content(repository: SmallRepository) -> None:
    with writing(repository.folder, OsMedium()) as session:
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
    _sign_targets(repository, lambda targets: targets.targets.update({name: listed}))


def _update(index: int, **members: object) -> Callable[[SmallRepository], None]:
    return _manifest(lambda document: document["updates"][index].update(members))


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
        pytest.param(_update(1, floor="1.0.1"), "floor-unpublished", id="floor"),
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
    assert set(_codes(repository)) == {code}
    status = run(cli, ["--repo", str(repository.folder), "validate"])
    assert status == (0 if CODES[code][0] is Severity.NOTE else 1)
    captured = capsys.readouterr()
    assert f" {code}: " in captured.out
    assert "next: " in captured.out


def test_a_manifest_that_is_not_listed(repository: SmallRepository) -> None:
    _sign_targets(repository, lambda targets: targets.targets.pop(MANIFEST))
    assert _codes(repository) == ["manifest-missing"]


def test_a_listing_without_a_sha256(repository: SmallRepository) -> None:
    name = _image(repository).name.partition(".")[2]

    def unlist(targets: Targets) -> None:
        targets.targets[name].hashes = {"sha512": "0" * 128}

    _sign_targets(repository, unlist)
    assert _codes(repository) == ["target-missing"]


def test_max_version_that_nobody_publishes(repository: SmallRepository) -> None:
    def raise_all(document: dict[str, Any]) -> None:
        for update in document["updates"]:
            update["max_version"] = "9.0.0"

    _edited(repository, raise_all)
    assert _codes(repository) == ["max-version-high"]


def test_everything_withdrawn_is_a_note(repository: SmallRepository) -> None:
    for version in ("1.1.0", "1.0.0"):
        assert run(cli, ["--repo", str(repository.folder), "withdraw", version]) == 0
    assert _codes(repository) == ["nothing-on-offer"]


def test_migrations_that_connect_are_fine(repository: SmallRepository) -> None:
    _edited(repository, _migrations("(1.0.0, 1.1.0)"))
    assert _codes(repository) == []


@pytest.mark.parametrize(
    ("days", "expired"),
    [
        (6, []),
        (8, ["metadata-expired"]),
        (31, ["metadata-expired"] * 2),
        (91, ["metadata-expired"] * 3),
        (365, ["root-expired", *["metadata-expired"] * 3]),
    ],
)
def test_expiries(repository: SmallRepository, days: int, expired: list[str]) -> None:
    assert _codes(repository, days=days) == expired


def test_consistent_snapshots_switched_off(repository: SmallRepository) -> None:
    path = repository.folder / "metadata" / "1.root.json"
    root = walk(FolderSource(repository.folder)).root
    assert root is not None
    root.consistent_snapshot = False
    signers = SignerStore(uris=config.load(repository.folder).signers, folder=repository.folder)
    path.write_bytes(sign(root, signers, root))
    assert _codes(repository) == ["consistent-snapshot-off"]


def test_too_few_signatures_on_the_next_root(repository: SmallRepository) -> None:
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
        assert check.check(UrlSource(url), now=repository.now, deep=False).clean
        _truncate_image(repository)
        report = check.check(UrlSource(url), now=repository.now, deep=False)
        assert [finding.code for finding in report.findings] == ["target-length"]
        _delete_image(repository)
        report = check.check(UrlSource(url), now=repository.now, deep=False)
        assert [finding.code for finding in report.findings] == ["target-missing"]


@pytest.mark.parametrize(
    ("place", "status", "code"),
    [("http://127.0.0.1:9/", 5, "unreachable"), ("nowhere", 2, "no-repository")],
)
def test_a_place_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], place: str, status: int, code: str
) -> None:
    assert run(cli, ["validate", place, "--json"]) == status
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_finding_outside_the_table_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="not in the table"):
        Finding(code="odd", place="", message="")


def test_every_next_step_is_a_sentence() -> None:
    assert all(step[0].isupper() and step.endswith(".") for _, step in CODES.values())
