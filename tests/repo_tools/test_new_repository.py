"""A new repository: keys, thresholds, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tuf.api.metadata import Metadata, Root

from repo_tools import config
from repo_tools.atomic_folder import all_or_nothing
from repo_tools.ceremony import new_repository
from repo_tools.cli import cli
from repo_tools.errors import (
    NoRepositoryError,
    RepositoryBusyError,
    RepositoryExistsError,
    SigningKeyError,
)
from repo_tools.repository.store import Store
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import check
from signpost.console import run
from signpost.errors import MediumError
from signpost.medium import OsMedium
from tests.repo_tools.clients import Client
from tests.support.repositories import (
    FailingMedium,
    KilledError,
    KillingMedium,
    kill_points,
    make_repository,
    tree_digest,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

NOW = datetime(2026, 11, 24, 9, 0, 0, 123456, tzinfo=UTC)


def _root(folder: Path) -> Root:
    signed = Metadata.from_bytes((folder / "metadata" / "1.root.json").read_bytes()).signed
    assert isinstance(signed, Root)
    return signed


def _write_key(path: Path, private: Any, passphrase: bytes | None = None) -> None:
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.touch(0o600)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)


def test_defaults_have_a_real_threshold_and_separate_keys(tmp_path: Path) -> None:
    created = new_repository.create(tmp_path / "repo", now=NOW)
    root = _root(tmp_path / "repo")
    assert {name: (role.threshold, len(role.keyids)) for name, role in root.roles.items()} == {
        "root": (2, 3),
        "targets": (1, 1),
        "snapshot": (1, 1),
        "timestamp": (1, 1),
    }
    assert len(root.keys) == 6
    assert root.consistent_snapshot is True
    assert root.spec_version == "1.0.0"
    assert root.expires == NOW.replace(microsecond=0) + timedelta(weeks=52)
    assert created.root_json.read_bytes() == (tmp_path / "repo" / "metadata" / "1.root.json").read_bytes()


def test_test_keys_are_private_and_say_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "repo"
    assert run(cli, ["new", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    keys = json.loads(captured.out)["test_keys"]
    assert len(keys) == 6
    for path in sorted((folder / "keys").glob("*.pem")):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text().startswith("TEST ONLY")
        subprocess.run(["openssl", "pkey", "-in", str(path), "-noout"], check=True)
    assert "TEST ONLY" in (folder / "keys" / "README").read_text()
    assert "for tests only" in captured.err


def test_repo_toml_reads_back(tmp_path: Path) -> None:
    new_repository.create(
        tmp_path / "repo",
        now=NOW,
        plan=new_repository.RepositoryPlan(expires=config.parse_expires(["timestamp=36h"])),
    )
    settings = config.load(tmp_path / "repo")
    assert settings.expires == {**config.DEFAULT_EXPIRES, "timestamp": timedelta(hours=36)}
    assert set(settings.signers) == set(_root(tmp_path / "repo").keys)


def test_a_client_trusts_it_at_once(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo", versions=[])
    with repository.served() as url:
        assert Client(tmp_path / "node", repository.root_json).manifest(url).updates == ()


def test_a_killed_new_is_not_a_repository(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    new_repository.create(folder, now=NOW)
    (folder / "repo.toml").unlink()
    assert run(cli, ["--repo", str(folder), "refresh"]) == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["--root-threshold", "4"], "config", id="threshold-above-keys"),
        pytest.param(["--expires", "timestmp=1d"], "config", id="role"),
        pytest.param(["--expires", "timestamp=1 fortnight"], "config", id="span"),
        pytest.param(["--expires", "timestamp=0d"], "config", id="no-time"),
        pytest.param(["--signer", "targets"], "config", id="signer-without-uri"),
        pytest.param(["--signer", "target=file2:x"], "config", id="signer-role"),
        pytest.param(["--signer", "targets=file2:nowhere.pem"], "signing-key", id="no-key"),
        pytest.param(["--signer", "targets=hsm:2"], "signing-key", id="no-public-half"),
        pytest.param(["--signer", "targets=hsm:2,nowhere.pem"], "signing-key", id="no-public-file"),
        pytest.param(["--name", "a/b"], "config", id="name"),
    ],
)
def test_wrong_input_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    folder = tmp_path / "repo"
    assert run(cli, ["new", str(folder), *words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert not folder.exists()


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo")
    before = tree_digest(repository.folder)
    assert run(cli, ["new", str(repository.folder)]) == 2
    assert tree_digest(repository.folder) == before
    (tmp_path / "file").write_text("")
    assert run(cli, ["new", str(tmp_path / "file")]) == 2
    (tmp_path / "empty").mkdir()
    assert run(cli, ["new", str(tmp_path / "empty")]) == 0


@pytest.mark.parametrize(
    ("private", "accepted"),
    [
        pytest.param(ed25519.Ed25519PrivateKey.generate(), True, id="ed25519"),
        pytest.param(ec.generate_private_key(ec.SECP256R1()), True, id="p256"),
        pytest.param(rsa.generate_private_key(65537, 2048), True, id="rsa2048"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), False, id="p384"),
        pytest.param(rsa.generate_private_key(65537, 1024), False, id="rsa1024"),  # noqa: S505 - the point
        pytest.param(ec.generate_private_key(ec.SECP256K1()), False, id="k1"),
    ],
)
def test_only_supported_key_types_are_accepted(tmp_path: Path, private: Any, accepted: bool) -> None:  # noqa: FBT001 - a table's column
    key = tmp_path / "key.pem"
    _write_key(key, private)
    status = run(cli, ["new", str(tmp_path / "repo"), "--signer", f"targets=file2:{key}"])
    assert status == (0 if accepted else 2)
    if accepted:
        repository = make_repository(tmp_path / "another", versions=[])
        assert run(cli, ["--repo", str(tmp_path / "repo"), "validate"]) == 0
        assert not (tmp_path / "repo" / "keys" / "targets.pem").exists()
        assert (repository.folder / "keys" / "targets.pem").exists()


def test_signers_for_every_role_make_no_test_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[str] = []
    for role in ("root", "root", "targets", "snapshot", "timestamp"):
        key = tmp_path / f"{role}-{len(words)}.pem"
        _write_key(key, ed25519.Ed25519PrivateKey.generate())
        words += ["--signer", f"{role}=file2:{key},{key.with_suffix('.pub')}"]
    assert run(cli, ["new", str(tmp_path / "repo"), *words]) == 0
    assert not (tmp_path / "repo" / "keys").exists()
    assert "warning" not in capsys.readouterr().err
    assert _root(tmp_path / "repo").roles["root"].threshold == 2


def test_one_key_given_twice_is_one_key(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    _write_key(key, ed25519.Ed25519PrivateKey.generate())
    words = ["--signer", f"root=file2:{key}"] * 2
    assert run(cli, ["new", str(tmp_path / "repo"), *words]) == 2


def test_a_public_half_of_another_key_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        _write_key(tmp_path / f"{name}.pem", ed25519.Ed25519PrivateKey.generate())
    word = f"targets=file2:{tmp_path / 'one.pem'},{tmp_path / 'two.pub'}"
    assert run(cli, ["new", str(tmp_path / "repo"), "--signer", word]) == 2
    assert "does not match" in capsys.readouterr().err
    assert not (tmp_path / "repo").exists()


def test_encrypted_test_keys_need_their_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "repo"
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "correct horse")
    assert run(cli, ["new", str(folder), "--encrypt", "--expires", "timestamp=1d"]) == 0
    keys = list((folder / "keys").glob("*.pem"))
    assert len(keys) >= 4
    assert all("ENCRYPTED" in path.read_text() for path in keys)
    refresh = ["--repo", str(folder), "refresh"]
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "wrong")
    assert run(cli, refresh) == 2
    monkeypatch.delenv("REPO_TOOLS_PASSPHRASE")
    assert run(cli, refresh) == 2
    assert "REPO_TOOLS_PASSPHRASE" in capsys.readouterr().err
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "correct horse")
    assert run(cli, refresh) == 0


def test_an_encrypted_signer_needs_its_passphrase(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    _write_key(key, ed25519.Ed25519PrivateKey.generate(), b"secret")
    plan = new_repository.RepositoryPlan(signers={"targets": [f"file2:{key}"]})
    with pytest.raises(SigningKeyError):
        new_repository.create(tmp_path / "repo", now=NOW, plan=plan)
    assert not (tmp_path / "repo").exists()
    new_repository.create(tmp_path / "repo", now=NOW, plan=plan, secrets=lambda _name: "secret")


def test_killed_at_every_step_and_made_again(tmp_path: Path) -> None:
    recorder = KillingMedium()
    new_repository.create(tmp_path / "recorded", now=NOW, medium=recorder)
    points = list(kill_points(recorder.steps))
    assert len(points) > 60
    whole = 0
    for number, torn in points:
        folder = tmp_path / f"at-{number}-{torn}"
        with pytest.raises(KilledError):
            new_repository.create(folder, now=NOW, medium=KillingMedium(number, torn=torn))
        if (folder / "repo.toml").exists():
            whole += 1
        else:
            with pytest.raises(NoRepositoryError):
                Store.existing(folder, OsMedium())
            new_repository.create(folder, now=NOW)
        assert check.check(FolderSource(folder), now=NOW).findings == ()
        config.load(folder)
    assert 0 < whole < 5


def test_what_a_killed_run_left_is_only_cleared_if_nothing_else_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    with pytest.raises(KilledError):
        new_repository.create(folder, now=NOW, medium=KillingMedium(20))
    (folder / "thesis.txt").write_text("the only copy")
    before = tree_digest(folder)
    with pytest.raises(RepositoryExistsError):
        new_repository.create(folder, now=NOW)
    assert tree_digest(folder) == before


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    recorder = KillingMedium()
    new_repository.create(tmp_path / "recorded", now=NOW, medium=recorder)
    folder, empty = tmp_path / "repo", tmp_path / "empty"
    empty.mkdir()
    for number in range(1, len(recorder.steps) - 1, 7):
        for place in (folder, empty):
            with pytest.raises(MediumError):
                new_repository.create(place, now=NOW, medium=FailingMedium(number))
        assert not folder.exists(), recorder.steps[number]
        assert list(empty.iterdir()) == []


def test_a_second_new_in_the_same_folder_is_busy(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    with (
        all_or_nothing(folder, OsMedium(), frozenset()),
        pytest.raises(RepositoryBusyError),
    ):
        new_repository.create(folder, now=NOW)
    new_repository.create(folder, now=NOW)
