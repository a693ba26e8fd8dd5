"""PURE: the formats of key files: those that can be read, and a name for those that cannot.

Rules:

* private keys are read from PEM, DER (PKCS#8, PKCS#1, SEC 1) and OpenSSH files, and ed25519 keys from PKCS#8
  version 2, which has the public half too (RFC 8410, section 7); it has to be that of the private half;
* public keys are read from PEM, DER and OpenSSH files;
* a file of another kind is named as what it is, with the command that makes a key file of it.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from repo_tools.errors import SigningKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

_DER = b"\x30"  # the first byte of an ASN.1 sequence
_OPENSSH = b"BEGIN OPENSSH PRIVATE KEY"
_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----")
_ED25519_V2 = re.compile(
    rb"\x30.\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20(.{32})(?:\xa0.*)?\x81\x21\x00(.{32})",
    re.DOTALL,
)
_WITHOUT_PUB = "Name the file of the private key, without `.pub`."
_OTHER_KINDS = (
    (b"BEGIN PUBLIC KEY", "a public key", "Name the file of the private key."),
    (b"BEGIN CERTIFICATE-", "a certificate", "`openssl x509 -in FILE -noout -pubkey` prints its public key."),
    (b"BEGIN CERTIFICATE REQUEST", "a certificate request", "Name the key file that it was made with."),
    (b"BEGIN PGP", "an OpenPGP key", "Make a key of its own: `repo-tools root make-key FILE`."),
    (b"PuTTY-User-Key-File", "a PuTTY key", "Convert it: `puttygen FILE -O private-openssh -o NEW`."),
    (
        b"untrusted comment: ",
        "a minisign or signify key",
        "Make a key of its own: `repo-tools root make-key`.",
    ),
    (
        b'"kty"',
        "a JSON Web Key",
        "Make a key of its own: `repo-tools root make-key FILE`.",
    ),
    (b"ssh-", "an OpenSSH public key", _WITHOUT_PUB),
    (b"ecdsa-sha2-", "an OpenSSH public key", _WITHOUT_PUB),
)
_READABLE = "Name a private key file; `repo-tools root make-key FILE` makes one."
_PKCS12 = "Convert it: `openssl pkcs12 -in FILE -nocerts -out NEW.pem`."


def private_key(data: bytes, place: str, passphrase: Callable[[], bytes]) -> Any:
    """Return the private key in a file.

    Args:
        data: its content.
        place: what messages call it.
        passphrase: returns the passphrase; called only if the key is encrypted.

    Raises:
        SigningKeyError: it is not a private key, its format cannot be read, or the passphrase is wrong.
    """
    if (seed := _ed25519_v2(data, place)) is not None:
        return seed
    load: Callable[[bytes, bytes | None], Any] = load_pem_private_key
    if _OPENSSH in data:
        load = load_ssh_private_key
    elif data.startswith(_DER):
        load = load_der_private_key
    secret: bytes | None = None
    try:
        try:
            return load(data, None)
        except TypeError:  # "Password was not given but private key is encrypted"
            secret = passphrase()
            return load(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        kind, next_step = _kind(data)
        if kind:
            raise SigningKeyError(f"{place} is {kind}, not a private key", next_step=next_step) from error
        if isinstance(error, UnsupportedAlgorithm) and _OPENSSH in data:
            raise SigningKeyError(
                f"{place} is an encrypted OpenSSH key, which cannot be read here: {error}",
                next_step="Remove its passphrase in a copy: `ssh-keygen -p -N '' -f COPY`.",
            ) from error
        if secret is not None:
            raise SigningKeyError(
                f"{place} cannot be decrypted: its passphrase is wrong",
                next_step="Check the passphrase; `openssl pkey -in FILE -noout` tries one.",
            ) from error
        raise SigningKeyError(
            f"{place} is not a private key in PEM, DER or OpenSSH format", next_step=_READABLE
        ) from error


def public_key(data: bytes, place: str) -> Any:
    """Return the public key in a file. Raises SigningKeyError."""
    try:
        if data.startswith(_DER):
            return load_der_public_key(data)
        if data.startswith((b"ssh-", b"ecdsa-")):
            return load_ssh_public_key(data)
        return load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"PRIVATE KEY-----" in data:
            raise SigningKeyError(
                f"{place} is a private key, not a public key",
                next_step="`repo-tools root public-key file2:FILE` prints its public key.",
            ) from error
        kind, next_step = _kind(data)
        what = f"{kind}, " if kind else ""
        raise SigningKeyError(f"{place} is {what}not a public key: {error}", next_step=next_step) from error


def _ed25519_v2(data: bytes, place: str) -> Ed25519PrivateKey | None:
    """Return the ed25519 key in a PKCS#8 file of version 2, None if it is another file."""
    if pem := _PEM.search(data):
        try:
            data = base64.b64decode(pem[1])
        except binascii.Error:
            return None
    found = _ED25519_V2.fullmatch(data)
    if found is None:
        return None
    private = Ed25519PrivateKey.from_private_bytes(found[1])
    if private.public_key().public_bytes_raw() != found[2]:
        raise SigningKeyError(
            f"{place} has the public half of another key", next_step="Do not use it; make a new key."
        )
    return private


def _kind(data: bytes) -> tuple[str, str]:
    """Return what a file is that is no key file, and what to do with it; empty if it is not known."""
    if not data.strip():
        return "empty", ""
    for mark, name, next_step in _OTHER_KINDS:
        if mark in data[:4096]:
            return name, next_step
    if data.startswith(_DER) and b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07" in data[:64]:
        return "a PKCS#12 file", _PKCS12
    return "", ""
