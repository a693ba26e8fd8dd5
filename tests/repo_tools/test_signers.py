"""Keys that are not files: a PKCS#11 token, a key service, an environment variable."""

from __future__ import annotations

import subprocess
from copy import deepcopy
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pkcs11 import TokenFlag
from tuf.api.metadata import Key, Metadata, Targets

from repo_tools.cli.options import ask_secrets
from repo_tools.errors import SigningKeyError
from repo_tools.keys.signers import SignerStore, is_same_key, key_source, require_usable, secret_variables
from repo_tools.keys.signing import add_signatures
from repo_tools.keys.tokens import tries_text
from tests.repo_tools.clients import Client
from tests.support.ceremonies import RepoTools, make_key, proposal_in
from tests.support.repositories import SmallRepository, make_repository, tree_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "871236"


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    return make_repository(tmp_path / "repo", versions=["1.0.0"])


@pytest.fixture
def tool(repository: SmallRepository, capsys: pytest.CaptureFixture[str]) -> RepoTools:
    return RepoTools(repository.folder, capsys)


def _p256_pem() -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _put_in_place(tool: RepoTools, uri: str, role: str, folder: Path) -> None:
    """Give a role the key at a URI, by a whole ceremony."""
    public, file = folder / f"{role}.pub.pem", folder / f"{role}.json"
    public.write_text(tool.root("public-key", uri))
    tool.root("rotate", file, role, role, public, "--role", role)
    tool.sign(file, *(tool.folder / "keys" / f"root-{number}.pem" for number in (1, 2)))
    with (tool.folder / "repo.toml").open("a", encoding="utf-8") as config:
        config.write(tool.root("public-key", uri, "--signer-line"))
    tool.root("publish", file)


def _serves_clients(repository: SmallRepository, folder: Path) -> None:
    repository.publish("1.1.0")
    with repository.served() as url:
        assert len(Client(folder, repository.root_json).manifest(url).updates) == 2


# An environment variable.


def test_a_key_in_an_environment_variable(
    tool: RepoTools, repository: SmallRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TARGETS_KEY", make_key(tmp_path, "ci", "correct horse").read_text())
    monkeypatch.setenv("REPO_TOOLS_PASSPHRASE", "correct horse")
    _put_in_place(tool, "envvar:TARGETS_KEY", "targets", tmp_path)
    tool.run("refresh", "--within", "100d")
    monkeypatch.delenv("TARGETS_KEY")
    before = tree_digest(repository.folder)
    tool.run("refresh", "--within", "100d", status=2)
    assert tree_digest(repository.folder) == before


def test_an_environment_variable_without_a_key_is_refused(
    tool: RepoTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TARGETS_KEY", "no key at all")
    assert tool.error("public-key", "envvar:TARGETS_KEY", status=2) == "signing-key"


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
    tokens: str, tool: RepoTools, repository: SmallRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "anna.pub.pem"
    public.write_text(tool.root("public-key", tokens))
    file = tmp_path / "hands" / "root-2.json"
    file.parent.mkdir()
    tool.root("rotate", file, "root-1", "anna", public)
    before = file.read_bytes()
    words = ("sign", file, "--key", tokens)
    assert tool.error(*words, status=2) == "signing-key"
    monkeypatch.setenv("REPO_TOOLS_PIN", "000000")
    assert tool.error(*words, status=2) == "signing-key"
    monkeypatch.setenv("REPO_TOOLS_PIN", PIN)
    assert tool.error("sign", file, "--key", "hsm:2?label=boris", status=2) == "key-not-of-role"
    assert tool.error("sign", file, "--key", "hsm:2?label=clara", status=2) == "signing-key"
    assert file.read_bytes() == before
    tool.root(*words)
    tool.sign(file, *(repository.folder / "keys" / f"root-{number}.pem" for number in (2, 3)))
    assert len(proposal_in(file).signature_status()[1].signed) == 3
    tool.root("publish", file)
    with repository.served() as url:
        assert Client(tmp_path / "node", repository.root_json).manifest(url).updates


def test_an_online_key_in_a_token(
    tokens: str, tool: RepoTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_TOOLS_PIN", PIN)
    _put_in_place(tool, tokens, "timestamp", tmp_path)
    tool.run("refresh", "--within", "8d")
    assert tool.run("validate").startswith("clean")


def test_a_token_key_that_not_every_client_verifies(tokens: str, tool: RepoTools) -> None:
    assert (
        tool.error("public-key", tokens.replace("anna", "boris").replace(":2", ":3"), status=2)
        == "signing-key"
    )


def test_a_module_that_is_not_there(tool: RepoTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    tool.root("public-key", "hsm:2", status=2)
    monkeypatch.setenv("PYKCS11LIB", "/nowhere/module.so")
    assert tool.error("public-key", "hsm:2", status=2) == "signing-key"


# AWS KMS: moto's server.


@pytest.fixture(scope="module")
def key_service() -> Iterator[str]:
    """Serve a KMS with one P-256 key; yield its URI.

    moto hashes its input once more, even where the request says that it is a digest. Here its keys
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


def test_an_online_key_in_kms_signs_what_clients_accept(
    key_service: str, tool: RepoTools, repository: SmallRepository, tmp_path: Path
) -> None:
    _put_in_place(tool, key_service, "targets", tmp_path)
    _serves_clients(repository, tmp_path / "node")


def test_a_kms_key_that_is_not_there(
    key_service: str, tool: RepoTools, repository: SmallRepository, tmp_path: Path
) -> None:
    assert tool.error("public-key", "awskms:alias/nobody", status=2) == "signing-key"
    with pytest.raises(SigningKeyError, match=r"cannot use the key at awskms:.*alias/nobody is not found"):
        _key(tool, "awskms:alias/nobody")
    _put_in_place(tool, key_service, "timestamp", tmp_path)
    _refuse_refresh(tool, repository, key_service, "awskms:alias/nobody")


def test_a_key_of_another_kind_than_its_uri_is_refused(
    key_service: str, tool: RepoTools, repository: SmallRepository
) -> None:
    _refuse_refresh(tool, repository, "file2:keys/timestamp.pem", key_service)


def _refuse_refresh(tool: RepoTools, repository: SmallRepository, uri: str, other: str) -> None:
    path = repository.folder / "repo.toml"
    path.write_text(path.read_text().replace(uri, other))
    before = tree_digest(repository.folder)
    tool.run("refresh", "--within", "8d", status=2)
    assert tree_digest(repository.folder) == before


def test_a_scheme_without_its_public_key(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="public key cannot be read"):
        key_source("gcpkms:projects/p/locations/l", tmp_path, lambda _: "")


def _key(tool: RepoTools, uri: str) -> Key:
    return key_source(uri, tool.folder, lambda _: PIN).key


def test_a_public_half_is_the_same_by_every_way(
    tokens: str, key_service: str, tool: RepoTools, tmp_path: Path
) -> None:
    for uri in (tokens, key_service):
        path = tmp_path / "public.pem"
        path.write_text(tool.root("public-key", uri))
        assert _key(tool, uri) == _key(tool, f"{uri},{path}")


def test_what_a_key_service_reports_while_signing_is_the_error(key_service: str, tool: RepoTools) -> None:
    """The library that signs metadata hides it."""
    key = _key(tool, key_service)
    store = SignerStore(uris={key.keyid: "awskms:alias/nobody"}, folder=tool.folder)
    add_signatures(Metadata(Targets()), store, [key])
    assert not store.has(key.keyid)
    assert "alias/nobody is not found" in store.failed[key.keyid].message


def test_a_key_that_failed_signs_nothing_more(tmp_path: Path) -> None:
    """Nor does a key whose public half is another one: the signature would be worth nothing."""
    own, other = (
        key_source(f"file2:{make_key(tmp_path, name)}", tmp_path, lambda _: "").key
        for name in ("own", "other")
    )
    store = SignerStore(uris={own.keyid: f"file2:{tmp_path}/other.pem"}, folder=tmp_path)
    assert not store.prove(own)
    assert not store.prove(other)  # repo.toml does not name it
    assert not store.attempt(own, lambda _signer: pytest.fail("it was used again"))


# Public keys that only other tools can use: OpenPGP keys are a part of TUF.


def test_keys_that_cannot_be_read_are_one_key_if_their_keyids_are() -> None:
    openpgp = {"keytype": "eddsa", "scheme": "pgp+eddsa-ed25519", "keyval": {"public": {"q": "ab" * 32}}}
    one, same, other = (Key.from_dict(digit * 64, deepcopy(openpgp)) for digit in "aab")
    assert is_same_key(one, same)
    assert not is_same_key(one, other)
    with pytest.raises(SigningKeyError, match=r"eddsa pgp.* is not verified by every client"):
        require_usable(one)


# Secrets by name.


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("PIN of token alpha", ("REPO_TOOLS_PIN_ALPHA", "REPO_TOOLS_PIN")),
        ("PIN of token Nitro Key/2", ("REPO_TOOLS_PIN_NITRO_KEY_2", "REPO_TOOLS_PIN")),
        ("PIN of token ", ("REPO_TOOLS_PIN",)),
        ("passphrase of /a/keys/anna-2.pem", ("REPO_TOOLS_PASSPHRASE_ANNA_2", "REPO_TOOLS_PASSPHRASE")),
        ("passphrase of CI_KEY", ("REPO_TOOLS_PASSPHRASE_CI_KEY", "REPO_TOOLS_PASSPHRASE")),
    ],
)
def test_each_secret_has_a_variable_of_its_own(name: str, variables: tuple[str, ...]) -> None:
    assert secret_variables(name) == variables


def test_two_tokens_with_different_pins(
    tokens: str, repository: SmallRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [tokens, tokens.replace("anna", "boris")]
    asked: list[str] = []

    def secret(name: str) -> str:
        asked.append(name)
        return {"PIN of token anna": PIN, "PIN of token boris": "000000"}[name]

    keys = [key_source(uri, repository.folder, lambda _name: PIN) for uri in sources]
    store = SignerStore(
        uris={item.key.keyid: item.uri for item in keys}, folder=repository.folder, secrets=secret
    )
    assert [store.prove(item.key) for item in keys] == [True, False]
    assert [store.prove(item.key) for item in keys] == [True, False]
    assert asked == ["PIN of token anna", "PIN of token boris"]  # a wrong PIN is not tried again
    error = store.failed[keys[1].key.keyid]
    assert "token 'boris'" in error.message
    assert "the token has counted a wrong PIN" in error.message
    assert "REPO_TOOLS_PIN_BORIS" in (error.next_step or "")
    monkeypatch.setenv("REPO_TOOLS_PIN", "000000")
    monkeypatch.setenv("REPO_TOOLS_PIN_ANNA", PIN)
    assert ask_secrets()("PIN of token anna") == PIN
    assert ask_secrets()("PIN of token boris") == "000000"


def test_a_pin_that_a_token_refused_is_not_given_to_it_for_another_key(
    tokens: str, repository: SmallRepository
) -> None:
    """A token with three tries would be locked by a role with three of its keys."""
    assert tokens
    first, second = (
        key_source(f"{uri},{path}", repository.folder, lambda _name: PIN)
        for uri, path in zip(
            ("hsm:2?label=boris", "hsm:7?label=boris"), _public_keys(repository.folder), strict=True
        )
    )
    pins = ["000000", "000000", PIN]
    store = SignerStore(
        uris={item.key.keyid: item.uri for item in (first, second)},
        folder=repository.folder,
        secrets=lambda _name: pins.pop(0),
    )
    assert [store.prove(first.key), store.prove(second.key)] == [False, False]
    assert "not tried again" in store.failed[second.key.keyid].message
    assert "locks itself" in (store.failed[second.key.keyid].next_step or "")
    store.failed.clear()
    assert store.prove(first.key) is False  # the right PIN is given to the token, whose key is another one
    assert "PIN" not in store.failed[first.key.keyid].message


def _public_keys(folder: Path) -> Iterator[Path]:
    for number in (1, 2):
        path = folder / f"public-{number}.pem"
        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        yield path


@pytest.mark.parametrize(
    ("flags", "told", "advice"),
    [
        (TokenFlag.TOKEN_INITIALIZED, "", "a token locks itself"),
        (TokenFlag.USER_PIN_COUNT_LOW, "has counted a wrong PIN", "it locks itself"),
        (
            TokenFlag.USER_PIN_COUNT_LOW | TokenFlag.USER_PIN_FINAL_TRY,
            "one try is left",
            "Make sure of the PIN",
        ),
        (TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED, "is locked", "SO PIN or PUK"),
    ],
)
def test_what_a_token_tells_about_the_tries_that_are_left(flags: TokenFlag, told: str, advice: str) -> None:
    text, next_step = tries_text(int(flags))
    assert told in text
    assert bool(told) is bool(text)
    assert advice in next_step
