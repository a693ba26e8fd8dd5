"""Keys that are no files: a PKCS#11 token, a key service, an environment variable."""

from __future__ import annotations

import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from repo_tools.errors import SigningKeyError
from repo_tools.keys import source
from tests.repo_tools.clients import Client
from tests.support.ceremonies import Desk, make_key, proposal_in
from tests.support.repositories import SmallRepository, make_repository, tree_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tuf.api.metadata import Key

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "871236"


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=["1.0.0"])


@pytest.fixture
def desk(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(repository.folder, capsys)


def _p256_pem() -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _put_in_place(desk: Desk, uri: str, role: str, folder: Path) -> None:
    """Give a role the key at a URI, by a whole ceremony."""
    public, file = folder / f"{role}.pub.pem", folder / f"{role}.json"
    public.write_text(desk.says("public-key", uri))
    desk.says("rotate", file, role, role, public, "--role", role)
    desk.sign(file, *(desk.folder / "keys" / f"root-{number}.pem" for number in (1, 2)))
    with (desk.folder / "repo.toml").open("a", encoding="utf-8") as config:
        config.write(desk.says("public-key", uri, "--signer-line"))
    desk.says("publish", file)


def _serves_clients(repository: SmallRepository, folder: Path) -> None:
    repository.publish("1.1.0")
    with repository.served() as url:
        assert len(Client(folder, repository.root_json).manifest(url).updates) == 2


# An environment variable.


def test_a_key_in_an_environment_variable(
    desk: Desk, repository: SmallRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TARGETS_KEY", make_key(tmp_path, "ci", "correct horse").read_text())
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "correct horse")
    _put_in_place(desk, "envvar:TARGETS_KEY", "targets", tmp_path)
    desk.types("refresh", "--within", "100d")
    monkeypatch.delenv("TARGETS_KEY")
    before = tree_digest(repository.folder)
    desk.types("refresh", "--within", "100d", status=2)
    assert tree_digest(repository.folder) == before


def test_a_variable_with_anything_else(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TARGETS_KEY", "no key at all")
    assert desk.error("public-key", "envvar:TARGETS_KEY", status=2) == "signing-key"


# A PKCS#11 token: Debian's softhsm2.


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make two tokens, each with a P-256 key under id 2, and one of them with a P-384 key under id 3."""
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "store").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder}/store\nlog.level = ERROR\n")
    p384 = ec.generate_private_key(ec.SECP384R1())
    big = p384.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(config))
        patch.setenv("PYKCS11LIB", MODULE)
        for label, number, pem in (("anna", 2, _p256_pem()), ("boris", 2, _p256_pem()), ("boris", 3, big)):
            (folder / "key.pem").write_text(pem)
            if number == 2:
                _softhsm("--init-token", "--free", "--label", label, "--so-pin", "0000")
            _softhsm(
                "--import", str(folder / "key.pem"), "--token", label, "--label", label, "--id", f"0{number}"
            )
        yield "hsm:2?label=anna"


def _softhsm(*words: str) -> None:
    subprocess.run(["softhsm2-util", *words, "--pin", PIN], check=True, capture_output=True)


def test_a_holder_signs_with_a_token(
    tokens: str, desk: Desk, repository: SmallRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "anna.pub.pem"
    public.write_text(desk.says("public-key", tokens))
    file = tmp_path / "hands" / "root-2.json"
    file.parent.mkdir()
    desk.says("rotate", file, "root-1", "anna", public)
    before = file.read_bytes()
    words = ("sign", file, "--key", tokens)
    assert desk.error(*words, status=2) == "signing-key"
    monkeypatch.setenv("REPO_TOOLS_PIN", "000000")
    assert desk.error(*words, status=2) == "signing-key"
    monkeypatch.setenv("REPO_TOOLS_PIN", PIN)
    assert desk.error("sign", file, "--key", "hsm:2?label=boris", status=2) == "key-not-of-role"
    assert desk.error("sign", file, "--key", "hsm:2?label=clara", status=2) == "signing-key"
    assert file.read_bytes() == before
    desk.says(*words)
    desk.sign(file, *(repository.folder / "keys" / f"root-{number}.pem" for number in (2, 3)))
    assert len(proposal_in(file).sides()[1].signed) == 3
    desk.says("publish", file)
    with repository.served() as url:
        assert Client(tmp_path / "node", repository.root_json).manifest(url).updates


def test_an_online_key_in_a_token(
    tokens: str, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_TOOLS_PIN", PIN)
    _put_in_place(desk, tokens, "timestamp", tmp_path)
    desk.types("refresh", "--within", "8d")
    assert desk.types("validate").startswith("clean")


def test_a_token_key_that_not_every_client_verifies(tokens: str, desk: Desk) -> None:
    assert (
        desk.error("public-key", tokens.replace("anna", "boris").replace(":2", ":3"), status=2)
        == "signing-key"
    )


def test_a_module_that_is_not_there(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    desk.says("public-key", "hsm:2", status=2)
    monkeypatch.setenv("PYKCS11LIB", "/nowhere/module.so")
    assert desk.error("public-key", "hsm:2", status=2) == "signing-key"


# AWS KMS: moto's server.


@pytest.fixture(scope="module")
def key_service() -> Iterator[str]:
    """Serve a KMS with one P-256 key; give its URI.

    moto hashes what it is given once more, also where the request says that it is a digest. Here its keys
    sign digests as such, as AWS does.
    """
    from moto.kms.utils import ECDSAPrivateKey
    from moto.server import ThreadedMotoServer

    def sign_digest(key: Any, message: bytes, signing_algorithm: str) -> bytes:
        assert (signing_algorithm, len(message)) == ("ECDSA_SHA_256", sha256().digest_size)
        signature: bytes = key.private_key.sign(message, ec.ECDSA(Prehashed(SHA256())))
        return signature

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ECDSAPrivateKey, "sign", sign_digest)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        import boto3

        made = boto3.client("kms").create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")
        yield f"awskms:{made['KeyMetadata']['KeyId']}"
        server.stop()


def test_an_online_key_in_kms(
    key_service: str, desk: Desk, repository: SmallRepository, tmp_path: Path
) -> None:
    _put_in_place(desk, key_service, "targets", tmp_path)
    _serves_clients(repository, tmp_path / "node")


def test_a_kms_key_that_is_not_there(
    key_service: str, desk: Desk, repository: SmallRepository, tmp_path: Path
) -> None:
    assert desk.error("public-key", "awskms:alias/nobody", status=2) == "signing-key"
    _put_in_place(desk, key_service, "timestamp", tmp_path)
    _refuse_refresh(desk, repository, key_service, "awskms:alias/nobody")


def test_a_key_of_another_kind_than_its_uri(
    key_service: str, desk: Desk, repository: SmallRepository
) -> None:
    _refuse_refresh(desk, repository, "file2:keys/timestamp.pem", key_service)


def _refuse_refresh(desk: Desk, repository: SmallRepository, uri: str, other: str) -> None:
    path = repository.folder / "repo.toml"
    path.write_text(path.read_text().replace(uri, other))
    before = tree_digest(repository.folder)
    desk.types("refresh", "--within", "8d", status=2)
    assert tree_digest(repository.folder) == before


def test_a_scheme_without_its_public_key(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="cannot be told"):
        source("gcpkms:projects/p/locations/l", tmp_path, lambda _: "")


def _key(desk: Desk, uri: str) -> Key:
    return source(uri, desk.folder, lambda _: PIN).key


def test_a_public_half_is_the_same_by_every_way(
    tokens: str, key_service: str, desk: Desk, tmp_path: Path
) -> None:
    for uri in (tokens, key_service):
        path = tmp_path / "public.pem"
        path.write_text(desk.says("public-key", uri))
        assert _key(desk, uri) == _key(desk, f"{uri},{path}")
