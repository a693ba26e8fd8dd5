"""Private keys: where they are, which are at hand, and new ones in files.

Rules:

* a private key is named by a securesystemslib URI; nothing else of this program touches one;
* ``file2:PATH`` and ``envvar:NAME`` keys are PKCS#8 PEM, plain or encrypted (the passphrase is asked through
  ``secrets``), in a file, its path relative to the repository, or in an environment variable, for CI;
  every other scheme is securesystemslib's own affair;
* the public half of a file, variable, PKCS#11 token or AWS KMS key is asked of the key itself, which
  proves that it can be reached; every other scheme needs it as a PEM file;
* only key types that every known client verifies are accepted: ed25519, ECDSA P-256, RSA-PSS of at
  least 2048 bits (P-384 and ML-DSA lock tough, and so Bottlerocket, out);
* the keyid is the SHA-256 of the canonical public key, as securesystemslib computes it;
* a new key's file has mode 0600 and never overwrites anything; a test key says that it is one.
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
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import Error as SslibError
from securesystemslib.exceptions import UnsupportedLibraryError
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
VARIABLE_SCHEME = "envvar:"
PKCS11_SCHEME = "hsm:"
KMS_SCHEME = "awskms:"
_EXTRAS = {PKCS11_SCHEME: "hsm", KMS_SCHEME: "kms"}
PIN = "pin"
"""What securesystemslib asks ``secrets`` for before a PKCS#11 token is used."""

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
            if _is_pem(uri):
                return CryptoSigner(_private_key(uri, self.folder, self.secrets), _sslib(key))
            return Signer.from_priv_key_uri(uri, key, self.secrets)
        except SigningKeyError:
            raise
        except Exception as error:  # libraries of tokens and key services raise whatever they like
            raise _unusable(uri, error) from error


def source(word: str, folder: Path, secrets: Secrets) -> KeySource:
    """Return the key named on the command line as ``URI`` or ``URI,PUBLIC.pem``.

    Relative paths start at ``folder``.

    Raises:
        SigningKeyError: the key cannot be read, or is of a type that not every client verifies.
    """
    uri, _, public = word.partition(",")
    key = load_public(folder / public) if public else _public_half(_public_of(uri, folder, secrets), uri)
    if uri.startswith(FILE_SCHEME):
        uri = f"{FILE_SCHEME}{folder / uri.removeprefix(FILE_SCHEME)}"
    return KeySource(uri=uri, key=key)


def require_usable(key: Key) -> None:
    """Refuse a public key that some client does not verify or knows by another keyid. Raises SigningKeyError.

    tough computes the keyid anew and refuses a root where it differs.
    """
    if _public_half(_opened(key), f"the key {key.keyid}").keyid != key.keyid:
        raise SigningKeyError(
            f"the key {key.keyid} is listed under a keyid that is not its SHA-256",
            next_step="Do not sign this; ask whoever made it for a new one.",
        )


def public_pem(key: Key) -> bytes:
    """Return a public key as a PEM file. Raises SigningKeyError."""
    return _opened(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def create_key(medium: Medium, path: Path, passphrase: str | None, note: str = "") -> KeySource:
    """Create an ed25519 key in a new PEM file ``path``, mode 0600, and return it.

    Args:
        medium: written through.
        path: must not exist. The URI of the key is ``file2:`` with this path.
        passphrase: encrypts it, where given.
        note: stands before the PEM.

    Raises:
        MediumError: the file exists or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    lock = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    if path.exists():
        raise MediumError(f"{path} exists", next_step="A key is never overwritten; choose another name.")
    durable.write_bytes(medium, path, note.encode() + pem, mode=_MODE)
    return KeySource(uri=f"{FILE_SCHEME}{path}", key=SSlibKey.from_crypto(private.public_key()))


def write_public(medium: Medium, path: Path, key: Key) -> None:
    """Write a public key into a new PEM file. Raises MediumError."""
    if path.exists():
        raise MediumError(f"{path} exists", next_step="A key is never overwritten; choose another name.")
    durable.write_bytes(medium, path, public_pem(key))


def create_test_key(medium: Medium, path: Path, passphrase: str | None) -> KeySource:
    """Create a key that says that it is for tests.

    Its URI is ``file2:`` with the last two parts of the path, the folder ``keys`` of the repository being
    one of them.

    Raises:
        MediumError: the file exists or cannot be written.
    """
    note = f"{TEST_KEY_NOTE} {path.stem}: made by `repo-tools new`; do not trust it with a real fleet.\n"
    made = create_key(medium, path, passphrase, note)
    return KeySource(uri=f"{FILE_SCHEME}{path.parent.name}/{path.name}", key=made.key)


def _is_pem(uri: str) -> bool:
    return uri.startswith((FILE_SCHEME, VARIABLE_SCHEME))


def _private_key(uri: str, folder: Path, secrets: Secrets) -> Any:
    """Return the private key of a file or variable, asking for its passphrase if it is encrypted."""
    pem, place = _pem_at(uri, folder)
    try:
        passphrase = secrets(f"passphrase of {place}").encode() if b"ENCRYPTED" in pem else None
        return load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{place} is no private key, or its passphrase is wrong: {error}") from error


def _pem_at(uri: str, folder: Path) -> tuple[bytes, str]:
    """Return the PEM that a URI leads to, and what to call it."""
    if uri.startswith(VARIABLE_SCHEME):
        from os import environ

        name = uri.removeprefix(VARIABLE_SCHEME)
        if name not in environ:
            raise SigningKeyError(
                f"the environment variable {name} is not set", next_step=f"Put the key's PEM into {name}."
            )
        return environ[name].encode(), name
    path = folder / uri.removeprefix(FILE_SCHEME)
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise SigningKeyError(f"cannot read the key {path}: {error.strerror}") from error


def _public_of(uri: str, folder: Path, secrets: Secrets) -> PublicKeyTypes:
    """Return the public half of a key, asked of the key itself."""
    if _is_pem(uri):
        public: PublicKeyTypes = _private_key(uri, folder, secrets).public_key()
        return public
    if not uri.startswith((PKCS11_SCHEME, KMS_SCHEME)):
        raise SigningKeyError(
            f"{uri}: the public key cannot be told from the URI",
            next_step="Write it as URI,PUBLIC.pem with the public key as a PEM file.",
        )
    try:
        return _opened(_imported(uri, secrets))
    except Exception as error:  # libraries of tokens and key services raise whatever they like
        raise _unusable(uri, error) from error


def _imported(uri: str, secrets: Secrets) -> SSlibKey:
    """Return what a token or AWS KMS says is the public half of this key."""
    from urllib.parse import parse_qsl, urlparse

    from securesystemslib.signer import AWSSigner, HSMSigner

    if uri.startswith(KMS_SCHEME):
        return AWSSigner.import_(uri.removeprefix(KMS_SCHEME))[1]
    parsed = urlparse(uri)
    number = int(parsed.path) if parsed.path else None
    return HSMSigner.import_(number, dict(parse_qsl(parsed.query)).get("label"), secrets)[1]


def _unusable(uri: str, error: Exception) -> SigningKeyError:
    """Return the error of a key that cannot be used, with what to install if that is why."""
    extra = next((extra for scheme, extra in _EXTRAS.items() if uri.startswith(scheme)), "")
    missing = isinstance(error, (UnsupportedLibraryError, ImportError)) and extra
    return SigningKeyError(
        f"cannot use the key at {uri}: {cause_of(error)}",
        next_step=f"Install what it takes: `pip install 'updog[{extra}]'`." if missing else "",
    )


def cause_of(error: BaseException) -> str:
    """Return an exception in words; those of python-pkcs11 often have none but their name."""
    said = str(error)
    return f"{type(error).__name__} {said}" if isinstance(error, KeyError) else said or type(error).__name__


def load_public(path: Path) -> Key:
    """Return the public key in a PEM file, if every client verifies its type. Raises SigningKeyError."""
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
    except (ValueError, SslibError, KeyError) as error:
        raise SigningKeyError(f"{place}: {error}") from error
    if key.scheme not in _SCHEMES or getattr(public, "key_size", _LEAST_RSA_BITS) < _least_bits(key):
        raise SigningKeyError(
            f"{place}: {key.keytype} {key.scheme} is not verified by every client",
            next_step="Use ed25519, ECDSA P-256 or RSA of at least 2048 bits.",
        )
    return key


def _opened(key: Key) -> PublicKeyTypes:
    """Return a TUF key as the cryptographic library's own. Raises SigningKeyError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        value = key.keyval["public"]
        if key.keytype == "ed25519":
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(value))
        return load_pem_public_key(value.encode())
    except (ValueError, KeyError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"the key {key.keyid} cannot be read: {error}") from error


def _least_bits(key: Key) -> int:
    return _LEAST_RSA_BITS if key.keytype == "rsa" else 0


def _sslib(key: Key) -> SSlibKey:
    if not isinstance(key, SSlibKey):
        raise SigningKeyError(f"the key {key.keyid} is of the unknown type {key.keytype}")
    return key
