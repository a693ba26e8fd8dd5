"""Every fault of metadata is a finding, never an internal error."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING

import pytest
from tuf.api.metadata import Metadata, Snapshot, Timestamp

from repo_tools.cli import cli
from repo_tools.trust.chain import walk
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import check
from signpost.console import run
from tests.support.repositories import SmallRepository, make_repository
from tests.support.tuf_repositories import TufRepository, in_days, signer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    return make_repository(tmp_path_factory.mktemp("chain") / "repo", versions=["1.0.0"])


def _write(files: dict[str, bytes], folder: Path) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def _without_targets(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return a repository whose snapshot, correctly signed, lists nothing."""
    snapshot = Metadata[Snapshot].from_bytes(files["metadata/1.snapshot.json"])
    snapshot.signed.meta.clear()
    snapshot.sign(signer("snapshot 0"))
    data = snapshot.to_bytes()
    timestamp = Metadata[Timestamp].from_bytes(files["metadata/timestamp.json"])
    meta = timestamp.signed.snapshot_meta
    meta.length, meta.hashes = len(data), None
    timestamp.sign(signer("timestamp 0"))
    return {**files, "metadata/1.snapshot.json": data, "metadata/timestamp.json": timestamp.to_bytes()}


def test_a_signed_snapshot_that_lists_no_targets_is_a_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = _without_targets(dict(TufRepository({"manifest.json": b"{}"}).files))
    folder = _write(files, tmp_path / "repo")
    (finding,) = walk(FolderSource(folder)).findings
    assert (finding.code, finding.place) == ("metadata-missing", "metadata/targets.json")
    assert run(cli, ["validate", str(folder)]) == 1
    root = str(folder / "metadata/1.root.json")
    assert run(cli, ["mirror", str(folder), str(tmp_path / "copy"), "--trusted-root", root]) == 1
    assert "internal error" not in capsys.readouterr().err


class _Memory:
    """A repository in memory, as a source."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def read(self, path: str, limit: int) -> bytes | None:
        del limit
        return self.files.get(path)

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        return iter([self.files[path][start:]]) if path in self.files else None

    def size(self, path: str) -> int | None:
        return len(self.files[path]) if path in self.files else None

    def names(self, folder: str) -> list[str]:
        return [path.removeprefix(f"{folder}/") for path in self.files if path.startswith(f"{folder}/")]

    def server_behaviour(self, path: str) -> None:
        del path


def _small() -> dict[str, bytes]:
    """Return a repository with a root of two keys, a channel, and earlier versions of all but the root."""
    manifest = b'{"updates": [], "migrations": {}}'
    repository = TufRepository({"manifest.json": manifest}, thresholds={"root": 2})
    repository.delegate("dev", ["dev/*"])
    repository.put("dev/manifest.json", manifest, role="dev")
    repository.publish()
    return repository.files


_FILES = [f"metadata/{name}" for name in ("1.root", "timestamp", "2.snapshot", "2.targets", "1.dev")]


_SIGNATURE = re.compile(rb'"sig": ?"([0-9a-f]+)"')


@pytest.mark.parametrize("path", [f"{name}.json" for name in _FILES])
def test_any_one_byte_of_any_metadata_file_is_a_finding_or_has_no_meaning(path: str) -> None:
    source = _Memory(_small())
    good, chance = source.files[path], random.Random(path)
    assert check(source, now=in_days(0)).findings == ()
    for position, byte in enumerate(good):
        value = chance.choice(
            [other for other in {*b'e.-"\\0{', byte ^ 0x20, chance.randrange(256)} if other != byte]
        )
        changed = good[:position] + bytes([value]) + good[position + 1 :]
        source.files[path] = changed
        if not check(source, now=in_days(0)).findings:  # hexadecimal digits of a signature in upper case
            is_digit = any(place.start(1) <= position < place.end(1) for place in _SIGNATURE.finditer(good))
            assert is_digit, f"byte {position}: {bytes([value])!r}"
            assert changed.lower() == good.lower(), f"byte {position}: {bytes([value])!r}"


@pytest.mark.parametrize("path", ["metadata/1.snapshot.json", "metadata/1.targets.json"])
def test_any_one_byte_of_metadata_that_no_timestamp_leads_to_any_more_is_no_internal_error(path: str) -> None:
    source = _Memory(_small())
    good, chance = source.files[path], random.Random(path)
    for position in range(len(good)):
        source.files[path] = good[:position] + bytes([chance.randrange(256)]) + good[position + 1 :]
        check(source, now=in_days(0))


_NO_CANONICAL_FORM = [1.5, 1e3, "\ud800"]


@pytest.mark.parametrize("value", _NO_CANONICAL_FORM)
@pytest.mark.parametrize("path", [f"{name}.json" for name in _FILES])
def test_a_value_that_nobody_can_have_signed_is_a_finding(path: str, value: object) -> None:
    source = _Memory(_small())
    document = json.loads(source.files[path])
    document["signed"]["x-added"] = value
    source.files[path] = json.dumps(document).encode()
    (finding,) = check(source, now=in_days(0)).findings[:1]
    assert finding.code in {"root-invalid", "metadata-signature", "metadata-digest"}
    assert len(finding.message) < 200


@pytest.mark.parametrize("name", ["1.root.json", "timestamp.json", "snapshot", "targets"])
def test_a_metadata_file_with_any_one_byte_changed_is_a_finding(
    repository: SmallRepository, tmp_path: Path, name: str
) -> None:
    metadata = repository.folder / "metadata"
    newest = {
        path.name.partition(".")[2].removesuffix(".json"): path.name for path in sorted(metadata.iterdir())
    }
    file = newest.get(name, name)
    files = {f"metadata/{path.name}": path.read_bytes() for path in metadata.iterdir()}
    good = files[f"metadata/{file}"]
    chance = random.Random(name)
    for position in chance.sample(range(len(good)), min(len(good), 150)):
        changed = bytearray(good)
        changed[position] ^= 1 << chance.randrange(8)
        folder = _write({**files, f"metadata/{file}": bytes(changed)}, tmp_path / "repo")
        report = check(FolderSource(folder), now=repository.now)
        assert report.findings, f"byte {position} of {file}"
