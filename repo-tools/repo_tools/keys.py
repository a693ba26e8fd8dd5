"""Private keys: where they are, which are at hand, and the test keys of a new repository.

Rules:

* a private key is named by a securesystemslib URI; nothing else of this program touches one;
* ``file2:`` keys are PKCS#8 PEM, plain or encrypted (the passphrase is asked through ``secrets``), their
  path relative to the repository; every other scheme is securesystemslib's own affair;
* only key types that every known client verifies are accepted: ed25519, ECDSA P-256, RSA-PSS of at
  least 2048 bits (P-384 and ML-DSA lock tough, and so Bottlerocket, out);
* the keyid is the SHA-256 of the canonical public key, as securesystemslib computes it;
* a test key is created with mode 0600, never overwrites anything, and is called a test key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from repo_tools.errors import SigningKeyError
from signpost.errors import MediumError
from updog import durable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from updog.durable import Medium

Secrets = Callable[[str], str]
"""Return the secret (a passphrase, a PIN) of this name, or raise SigningKeyError."""

FILE_SCHEME = "file2:"
TEST_KEY_NOTE = "TEST ONLY"
_MODE = 0o600
_SCHEMES = frozenset({"ed25519", "ecdsa-sha2-nistp256", "rsassa-pss-sha256"})
_LEAST_RSA_BITS = 2048


def no_secrets(name: str) -> str:
    """Refuse to give a secret: the answer of a program that nobody can ask. Raises SigningKeyError."""
    raise SigningKeyError(
        f"a {name} is needed", next_step="Give it in the environment variable REPO_TOOLS_PASSPHRASE."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySource:
    """A key to sign with: the URI of its private half, and the public half.

    Attributes:
        uri: as ``repo.toml`` will say it.
        key: the public key.
    """

    uri: str
    key: Key


@dataclass(frozen=True, kw_only=True, slots=True)
class SignerStore:
    """The private keys at hand.

    Attributes:
        uris: keyid → URI. folder: what ``file2:`` paths are relative to. secrets: asked for passphrases.
    """

    uris: Mapping[str, str]
    folder: Path
    secrets: Secrets = no_secrets

    def of(self, keys: Iterable[Key]) -> list[Signer]:
        """Return a signer for each of these public keys whose private half is at hand.

        Raises:
            SigningKeyError: a key that ``repo.toml`` names cannot be used.
        """
        return [self._signer(key) for key in keys if key.keyid in self.uris]

    def has(self, keyid: str) -> bool:
        """Return whether ``repo.toml`` says where this key's private half is."""
        return keyid in self.uris

    def _signer(self, key: Key) -> Signer:
        uri = self.uris[key.keyid]
        try:
            if uri.startswith(FILE_SCHEME):
                return CryptoSigner(self._private_key(uri), _sslib(key))
            return Signer.from_priv_key_uri(uri, key, self.secrets)
        except (ValueError, SslibError, ImportError, OSError) as error:
            raise SigningKeyError(f"cannot use the key at {uri}: {error}") from error

    def _private_key(self, uri: str) -> Any:
        return _load_private(self.folder / uri.removeprefix(FILE_SCHEME), self.secrets)


def source(word: str, folder: Path, secrets: Secrets) -> KeySource:
    """Return the key named on the command line as ``URI`` or ``URI,PUBLIC.pem``.

    Relative paths start at ``folder``. A ``file2:`` key's public half is taken from the private one; every
    other scheme needs the file.

    Raises:
        SigningKeyError: the key cannot be read, or is of a type that not every client verifies.
    """
    uri, _, public = word.partition(",")
    if public:
        key = _load_public(folder / public)
    elif uri.startswith(FILE_SCHEME):
        path = folder / uri.removeprefix(FILE_SCHEME)
        uri, key = f"{FILE_SCHEME}{path}", _public_half(_load_private(path, secrets).public_key(), uri)
    else:
        raise SigningKeyError(
            f"{uri}: the public key cannot be told from the URI",
            next_step="Write it as ROLE=URI,PUBLIC.pem with the public key as a PEM file.",
        )
    return KeySource(uri=uri, key=key)


def create_test_key(medium: Medium, path: Path, passphrase: str | None) -> KeySource:
    """Create an ed25519 key in a new PEM file ``path``, mode 0600, and return it.

    Its URI is ``file2:`` with the last two parts of the path, the folder ``keys`` of the repository being
    one of them.

    Raises:
        MediumError: the file exists or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    lock = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    if path.exists():
        raise MediumError(f"{path} exists", next_step="A key is never overwritten; choose another folder.")
    note = f"{TEST_KEY_NOTE} {path.stem}: made by `repo-tools new`; do not trust it with a real fleet.\n"
    durable.write_bytes(medium, path, note.encode() + pem, mode=_MODE)
    return KeySource(
        uri=f"{FILE_SCHEME}{path.parent.name}/{path.name}", key=SSlibKey.from_crypto(private.public_key())
    )


def _load_private(path: Path, secrets: Secrets) -> Any:
    """Return the private key of a PEM file, asking for its passphrase if it is encrypted."""
    try:
        pem = path.read_bytes()
        passphrase = secrets(f"passphrase of {path.name}").encode() if b"ENCRYPTED" in pem else None
        return load_pem_private_key(pem, passphrase)
    except OSError as error:
        raise SigningKeyError(f"cannot read the key {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path} is no private key, or its passphrase is wrong: {error}") from error


def _load_public(path: Path) -> Key:
    try:
        return _public_half(load_pem_public_key(path.read_bytes()), str(path))
    except OSError as error:
        raise SigningKeyError(f"cannot read the public key {path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path} is no public key in PEM: {error}") from error


def _public_half(public: PublicKeyTypes, place: str) -> Key:
    """Return the TUF key of a public key, if every client verifies its type. Raises SigningKeyError."""
    try:
        key = SSlibKey.from_crypto(public)
    except (ValueError, SslibError) as error:
        raise SigningKeyError(f"{place}: {error}") from error
    if key.scheme not in _SCHEMES or getattr(public, "key_size", _LEAST_RSA_BITS) < _least_bits(key):
        raise SigningKeyError(
            f"{place}: {key.keytype} {key.scheme} is not verified by every client",
            next_step="Use ed25519, ECDSA P-256 or RSA of at least 2048 bits.",
        )
    return key


def _least_bits(key: Key) -> int:
    return _LEAST_RSA_BITS if key.keytype == "rsa" else 0


def _sslib(key: Key) -> SSlibKey:
    if not isinstance(key, SSlibKey):
        raise SigningKeyError(f"the key {key.keyid} is of the unknown type {key.keytype}")
    return key
