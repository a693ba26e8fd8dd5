"""Keys in the formats that other tools write are read; what is no key is named as what it is."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from repo_tools.errors import SigningKeyError
from repo_tools.keys.signers import SignerStore, key_source, load_public, no_secrets

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

ED25519 = Ed25519PrivateKey.generate()
KEYS: dict[str, PrivateKeyTypes] = {
    "ed25519": ED25519,
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}
SEED, PUBLIC = ED25519.private_bytes_raw(), ED25519.public_key().public_bytes_raw()
V2 = bytes.fromhex("3051020101300506032b657004220420") + SEED + b"\x81\x21\0" + PUBLIC


def _signs(file: Path, private: PrivateKeyTypes, secret: str | None = None) -> None:
    """The key in a file is this one, and signs."""
    secrets = no_secrets if secret is None else lambda _name: secret
    given = key_source(f"file2:{file}", file.parent, secrets)
    own = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pem = file.with_suffix(".pub.pem")
    pem.write_bytes(own)
    assert given.key == load_public(pem)
    store = SignerStore(uris={given.key.keyid: given.uri}, folder=file.parent, secrets=secrets)
    assert store.prove(given.key)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(
    ("encoding", "form"),
    [
        (Encoding.PEM, PrivateFormat.PKCS8),
        (Encoding.DER, PrivateFormat.PKCS8),
        (Encoding.PEM, PrivateFormat.OpenSSH),
        (Encoding.PEM, PrivateFormat.TraditionalOpenSSL),
        (Encoding.DER, PrivateFormat.TraditionalOpenSSL),
    ],
)
def test_every_usual_format_is_read(
    tmp_path: Path, kind: str, encoding: Encoding, form: PrivateFormat
) -> None:
    if kind == "ed25519" and form is PrivateFormat.TraditionalOpenSSL:
        pytest.skip("ed25519 has no such format")
    file = tmp_path / "key"
    file.write_bytes(KEYS[kind].private_bytes(encoding, form, NoEncryption()))
    _signs(file, KEYS[kind])


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_an_encrypted_key_is_read_with_its_passphrase(tmp_path: Path, encoding: Encoding) -> None:
    file = tmp_path / "key"
    file.write_bytes(ED25519.private_bytes(encoding, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")))
    _signs(file, ED25519, "pass")
    for secrets, message in ((lambda _name: "wrong", "its passphrase is wrong"), (no_secrets, "is required")):
        with pytest.raises(SigningKeyError, match=message):
            key_source(f"file2:{file}", tmp_path, secrets)


@pytest.mark.parametrize("pem", [True, False])
def test_an_ed25519_key_with_its_public_half_is_read(tmp_path: Path, *, pem: bool) -> None:
    file = tmp_path / "key"
    file.write_bytes(_pem(V2) if pem else V2)
    _signs(file, ED25519)


def test_an_ed25519_key_with_the_public_half_of_another_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(_pem(V2[:-1] + bytes([V2[-1] ^ 1])))
    with pytest.raises(SigningKeyError, match="public half of another key"):
        key_source(f"file2:{file}", tmp_path, no_secrets)


def _pem(der: bytes) -> bytes:
    command = ["openssl", "base64"]
    body = subprocess.run(command, input=der, check=True, capture_output=True).stdout
    return b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (b"-----BEGIN PUBLIC KEY-----\n", "a public key"),
        (b"-----BEGIN CERTIFICATE-----\n", "a certificate"),
        (b"ssh-ed25519 AAAA me@host\n", "an OpenSSH public key"),
        (b"ecdsa-sha2-nistp256 AAAA me@host\n", "an OpenSSH public key"),
        (b'{"kty": "OKP", "crv": "Ed25519"}', "a JSON Web Key"),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", "a PuTTY key"),
        (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "an OpenPGP key"),
        (
            b"\x30\x82\x01\x00\x02\x01\x03\x30\x82\x01\0\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01",
            "PKCS#12",
        ),
    ],
)
def test_what_is_not_a_private_key_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(SigningKeyError, match=f"{file} is .*{named}.*not a private key"):
        key_source(f"file2:{file}", tmp_path, no_secrets)


def test_an_unknown_format_is_no_matter_of_the_passphrase(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"nonsense\n")
    with pytest.raises(SigningKeyError, match="is not a private key in PEM, DER or OpenSSH format") as caught:
        key_source(f"file2:{file}", tmp_path, no_secrets)
    assert "passphrase" not in caught.value.message
    assert "root make-key" in caught.value.next_step


def test_a_key_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    whole = ED25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for length in range(len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(SigningKeyError, match="not a private key"):
            key_source(f"file2:{file}", tmp_path, no_secrets)
    file.write_bytes(whole.replace(b"=", b"").replace(b"M", b"", 1))  # a letter is missing in the middle
    with pytest.raises(SigningKeyError, match="not a private key"):
        key_source(f"file2:{file}", tmp_path, no_secrets)


@pytest.mark.skipif(find_spec("bcrypt") is not None, reason="bcrypt is installed: such keys can be read")
def test_an_encrypted_openssh_key_is_named_as_one(tmp_path: Path) -> None:
    def field(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    options = field(bytes(16)) + (16).to_bytes(4, "big")  # salt and rounds
    body = b"openssh-key-v1\0" + field(b"aes256-ctr") + field(b"bcrypt") + field(options)
    body += (1).to_bytes(4, "big") + field(field(b"ssh-ed25519") + field(PUBLIC)) + field(bytes(144))
    file = tmp_path / "key"
    file.write_bytes(_pem(body).replace(b"PRIVATE", b"OPENSSH PRIVATE"))
    with pytest.raises(SigningKeyError, match="is an encrypted OpenSSH key") as caught:
        key_source(f"file2:{file}", tmp_path, lambda _name: "pass")
    assert "ssh-keygen -p" in (caught.value.next_step or "")


def test_a_damaged_openssh_key_is_not_called_encrypted(tmp_path: Path) -> None:
    file = tmp_path / "key"
    whole = ED25519.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    file.write_bytes(whole.replace(b"\nb3", b"\nc3", 1))
    with pytest.raises(SigningKeyError, match="is not a private key"):
        key_source(f"file2:{file}", tmp_path, no_secrets)


def test_public_keys_of_other_tools_are_read(tmp_path: Path) -> None:
    public = ED25519.public_key()
    found = []
    for number, (encoding, form) in enumerate(
        [
            (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            (Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            (Encoding.OpenSSH, PublicFormat.OpenSSH),
        ]
    ):
        file = tmp_path / str(number)
        file.write_bytes(public.public_bytes(encoding, form))
        found.append(load_public(file))
    assert found == [found[0]] * 3


def test_a_private_key_in_place_of_a_public_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(ED25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(SigningKeyError, match="is a private key, not a public key"):
        load_public(file)
