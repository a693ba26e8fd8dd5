"""Settings that are correctly signed but dangerous are findings, each with its own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from securesystemslib.signer import SSlibKey

from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import check
from tests.support.tuf_repositories import TufRepository, in_days, signer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = in_days(0)


def _sound() -> TufRepository:
    """Return a repository with two root keys and a channel, which is clean."""
    repository = TufRepository(
        {"manifest.json": b'{"updates": [], "migrations": {}}'}, thresholds={"root": 2}
    )
    repository.delegate("dev", ["dev/*"])
    repository.put("dev/manifest.json", b'{"updates": [], "migrations": {}}', role="dev")
    repository.publish()
    return repository


def _codes(repository: TufRepository, folder: Path) -> list[str]:
    return [finding.code for finding in check(FolderSource(repository.write_to(folder)), now=NOW).findings]


def _root_of_one(repository: TufRepository) -> None:
    repository.root.roles["root"].threshold = 1
    repository.publish_root(repository.signers["root"])


def _key_twice(repository: TufRepository) -> None:
    key = signer("targets 0").public_key
    again = SSlibKey("ab" * 32, key.keytype, key.scheme, key.keyval)
    repository.root.add_key(again, "targets")
    repository.publish_root(repository.signers["root"])


def _channel_key_twice(repository: TufRepository) -> None:
    key = signer("dev").public_key
    again = SSlibKey("ab" * 32, key.keytype, key.scheme, key.keyval)
    repository.targets.add_key(again, "dev")
    repository.publish()


def _decades(repository: TufRepository) -> None:
    repository.targets.expires = in_days(9000)
    repository.publish()


def _wide(repository: TufRepository) -> None:
    assert repository.targets.delegations is not None
    assert repository.targets.delegations.roles is not None
    repository.targets.delegations.roles["dev"].paths = ["dev/*", "*"]
    repository.publish()


def _shrunk(repository: TufRepository) -> None:
    repository.targets.delegations = None
    del repository.delegated["dev"], repository.snapshot.meta["dev.json"]
    repository.publish()


def _stray(repository: TufRepository) -> None:
    repository.files["metadata/1.nobody.json"] = b"{}"


def _no_log(repository: TufRepository) -> None:
    repository.put("changes.json", b"not JSON")
    repository.publish()


def _cut_log(repository: TufRepository) -> None:
    entry = b'{"number": 7, "at": "2026-01-01T00:00:00Z", "keys": [], "action": "hold", "subject": "1.0.0",'
    repository.put(
        "changes.json", b'{"changes": [' + entry + b' "effects": [], "reason": ""}], "earlier": null}'
    )
    repository.publish()


def test_a_sound_repository_is_clean(tmp_path: Path) -> None:
    assert _codes(_sound(), tmp_path) == []


@pytest.mark.parametrize(
    ("plant", "codes"),
    [
        (_root_of_one, {"root-threshold-one"}),
        (_key_twice, {"key-duplicate"}),
        (_channel_key_twice, {"key-duplicate"}),
        (_decades, {"expires-far"}),
        (_wide, {"delegation-wide"}),
        (_shrunk, {"snapshot-shrunk"}),
        (_stray, {"metadata-stray"}),
        (_no_log, {"log-invalid"}),
        (_cut_log, {"log-invalid"}),
    ],
)
def test_what_is_dangerous_is_a_finding(
    tmp_path: Path, plant: Callable[[TufRepository], None], codes: set[str]
) -> None:
    repository = _sound()
    plant(repository)
    assert set(_codes(repository, tmp_path)) == codes


@pytest.mark.parametrize(
    ("target", "codes"),
    [
        ("outside", ["link-outside", "target-orphan"]),
        ("/dev/null", ["link-outside"]),
        ("loop", ["link-outside"]),
    ],
)
def test_a_link_out_of_the_repository_is_a_finding(tmp_path: Path, target: str, codes: list[str]) -> None:
    folder = tmp_path / "repo"
    repository = _sound()
    assert _codes(repository, folder) == []
    (tmp_path / "outside").write_bytes(b"what others change")
    link = folder / "targets" / "loop"
    link.symlink_to(tmp_path / target if target == "outside" else target)
    assert [finding.code for finding in check(FolderSource(folder), now=NOW).findings] == codes


def _unlisted_log(repository: TufRepository) -> None:
    repository.put("changes.json", b'{"changes": [' + _ENTRY + b'], "earlier": null}')
    repository.publish()
    del repository.targets.targets["changes.json"]
    repository.publish()
    repository.publish()


def _log(repository: TufRepository, *entries: bytes) -> None:
    repository.put("changes.json", b'{"changes": [' + b", ".join(entries) + b'], "earlier": null}')
    repository.publish()


def _rewritten_log(repository: TufRepository) -> None:
    _log(repository, _ENTRY, _SECOND)
    _log(repository, _ENTRY.replace(b"1.0.0", b"1.0.1"), _SECOND)


def _shortened_log(repository: TufRepository) -> None:
    _log(repository, _ENTRY, _SECOND)
    _log(repository, _ENTRY)


_ENTRY = (
    b'{"number": 1, "at": "2026-01-01T00:00:00Z", "keys": [], "action": "hold", "subject": "1.0.0",'
    b' "effects": [], "reason": ""}'
)
_SECOND = _ENTRY.replace(b'"number": 1', b'"number": 2')


@pytest.mark.parametrize(
    ("plant", "code"),
    [(_unlisted_log, "log-missing"), (_rewritten_log, "log-invalid"), (_shortened_log, "log-invalid")],
)
def test_a_log_that_lost_what_it_had_is_a_finding(
    tmp_path: Path, plant: Callable[[TufRepository], None], code: str
) -> None:
    repository = _sound()
    plant(repository)
    assert _codes(repository, tmp_path) == [code]


def test_a_log_without_its_beginning_says_with_which_change_it_begins(tmp_path: Path) -> None:
    repository = _sound()
    _log(repository, _SECOND, _ENTRY.replace(b'"number": 1', b'"number": 3'))
    (finding,) = check(FolderSource(repository.write_to(tmp_path)), now=NOW).findings
    assert finding.message == "begins with change 2; those before are gone"


def test_a_change_that_a_killed_writer_left_gives_its_number_to_the_next_one(tmp_path: Path) -> None:
    repository = _sound()
    _log(repository, _ENTRY)
    _log(repository, _ENTRY.replace(b"1.0.0", b"1.0.1"))
    assert _codes(repository, tmp_path) == []


@pytest.mark.parametrize(
    ("path", "mode"),
    [("metadata/timestamp.json", 0o600), ("metadata", 0o750), ("targets", 0o744), ("targets", 0o700)],
)
def test_what_a_web_server_cannot_read_is_a_finding(tmp_path: Path, path: str, mode: int) -> None:
    assert _codes(_sound(), tmp_path) == []
    (tmp_path / path).chmod(mode)
    (finding,) = check(FolderSource(tmp_path), now=NOW).findings
    assert (finding.code, finding.place) == ("file-unreadable", path)
    assert f"{mode:04o}" in finding.message


def test_a_role_whose_file_name_no_folder_can_hold_is_a_finding(tmp_path: Path) -> None:
    repository = _sound()
    repository.delegate("x" * 300, ["x/*"])
    repository.publish()
    del repository.files[f"metadata/1.{'x' * 300}.json"]
    assert _codes(repository, tmp_path) == ["metadata-missing"]
