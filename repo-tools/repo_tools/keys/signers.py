"""Private keys: where they are, which are available, and creating new ones in files.

Rules:

* a private key is named by a securesystemslib URI; only this module uses private keys;
* ``file2:PATH`` and ``envvar:NAME`` keys are PKCS#8 PEM or another format that :mod:`repo_tools.keys.formats`
  reads, plain or encrypted (the passphrase is requested through ``secrets``), in a file, or in an environment
  variable, for CI; all other schemes are handled by securesystemslib;
* a relative path on the command line starts at the current folder, in every command, and in ``repo.toml`` at
  the repository;
* the public half of a file, variable, PKCS#11 token or AWS KMS key is read from the key itself, which
  proves that the key can be reached; all other schemes need the public key as a PEM file;
* only key types that every known client verifies are accepted: ed25519, ECDSA P-256, RSA-PSS of at
  least 2048 bits (tough, and therefore Bottlerocket, verifies neither P-384 nor ML-DSA);
* each secret has a name that says what it is for, and so a variable of its own
  (:func:`secret_variables`): the PIN of one token is not given to another that has its own;
* a key that could not be used once is not tried again, nor a PIN that its token has refused
  (:mod:`repo_tools.keys.tokens`);
* the keyid is the SHA-256 of the canonical public key, as securesystemslib computes it;
* a new key's file has mode 0600 and never overwrites a file; a test key's file says that it is a test key.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.exceptions import Error as SslibError
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from repo_tools import config
from repo_tools.errors import SigningKeyError
from repo_tools.extras import how_to_install
from repo_tools.keys import formats
from repo_tools.keys.holders import short_keyid
from repo_tools.keys.tokens import RefusedPins, token_label, tries_left
from signpost.errors import MediumError
from updog import durable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from updog.durable import Medium

log = logging.getLogger(__name__)
_HERE = Path()
_MAKE_KEY = "Check the path; `repo-tools root make-key FILE.pem` makes a new key."

Secrets = Callable[[str], str]
"""Returns the secret (a passphrase, a PIN) of this name, or raises SigningKeyError."""

FILE_SCHEME = "file2:"
VARIABLE_SCHEME = "envvar:"
PKCS11_SCHEME = "hsm:"
KMS_SCHEME = "awskms:"
_EXTRAS = {PKCS11_SCHEME: "hsm", KMS_SCHEME: "kms"}
PIN_OF = "PIN of token "
PASSPHRASE_OF = "passphrase of "  # noqa: S105 - how the name of a secret begins
PIN_VARIABLE = "REPO_TOOLS_PIN"
PASSPHRASE_VARIABLE = "REPO_TOOLS_PASSPHRASE"  # noqa: S105 - the name of a variable
_PROBE = b"repo-tools: can this key sign?"  # not metadata: those are JSON objects

TEST_KEY_NOTE = "TEST ONLY"
_MODE = 0o600
_SCHEMES = frozenset({"ed25519", "ecdsa-sha2-nistp256", "rsassa-pss-sha256"})
_LEAST_RSA_BITS = 2048


def secret_variables(name: str) -> tuple[str, ...]:
    """Return the environment variables that can hold a secret; the first one that is set counts.

    ``PIN of token alpha`` is in ``REPO_TOOLS_PIN_ALPHA``, or in ``REPO_TOOLS_PIN`` for all tokens;
    ``passphrase of keys/anna.pem`` in ``REPO_TOOLS_PASSPHRASE_ANNA``, or in ``REPO_TOOLS_PASSPHRASE``.
    """
    if name.startswith(PIN_OF):
        variable, owner = PIN_VARIABLE, name.removeprefix(PIN_OF)
    else:
        variable = PASSPHRASE_VARIABLE
        owner = name.removeprefix(PASSPHRASE_OF).rpartition("/")[2].removesuffix(".pem")
    word = re.sub("[^A-Z0-9]", "_", owner.upper())
    return (f"{variable}_{word}", variable) if word else (variable,)


def secret_required(name: str) -> SigningKeyError:
    """Return the error for a secret that is in no variable and cannot be asked for."""
    variables = " or ".join(secret_variables(name))
    return SigningKeyError(f"the {name} is required", next_step=f"Set the environment variable {variables}.")


def no_secrets(name: str) -> str:
    """Refuse to give a secret, in a program that cannot ask for one. Raises SigningKeyError."""
    raise secret_required(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySource:
    """A key to sign with.

    Attributes:
        uri: where the private half is, as written in ``repo.toml``.
        key: the public half.
    """

    uri: str
    key: Key


@dataclass(frozen=True, kw_only=True, slots=True)
class SignerStore:
    """The available private keys.

    Attributes:
        uris: keyid → URI. folder: what ``file2:`` paths are relative to. secrets: gives passphrases and PINs.
        failed: keyid → why the key cannot be used. proven: keyids of keys that have signed.
        reported: keyids of keys about which a warning was given. refused_pins: by tokens.
    """

    uris: Mapping[str, str]
    folder: Path
    secrets: Secrets = no_secrets
    failed: dict[str, SigningKeyError] = field(default_factory=dict)
    proven: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    refused_pins: RefusedPins = field(default_factory=RefusedPins)

    def with_uris(self, uris: Mapping[str, str]) -> SignerStore:
        """Return this store with other URIs; what is known about the keys stays known."""
        return replace(self, uris=uris)

    def of(self, keys: Iterable[Key]) -> list[Signer]:
        """Return a signer for each of these public keys whose private half is available.

        Raises:
            SigningKeyError: a key that is listed in ``repo.toml`` cannot be used.
        """
        return [self._signer(key) for key in keys if key.keyid in self.uris]

    def has(self, keyid: str) -> bool:
        """Return whether ``repo.toml`` says where this private key is, and it has not failed."""
        return keyid in self.uris and keyid not in self.failed

    def attempt(self, key: Key, use: Callable[[Signer], object]) -> bool:
        """Use a key if it is available; return whether it could. Why not is remembered in ``failed``."""
        if not self.has(key.keyid):
            return False
        try:
            use(self._signer(key))
        except SigningKeyError as error:
            self.failed[key.keyid] = error
        except Exception as error:  # noqa: BLE001 - libraries of tokens and key services raise any exception
            uri = self.uris[key.keyid]
            if _is_wrong_pin(uri, error):
                self.refused_pins.add_last(uri)
            self.failed[key.keyid] = _unusable(uri, error)
        else:
            self.proven.add(key.keyid)
        return self.has(key.keyid)

    def prove(self, key: Key) -> bool:
        """Return whether a private key is available and can sign; it is tried once."""
        if key.keyid in self.proven:
            return self.has(key.keyid)
        return self.attempt(key, lambda signer: key.verify_signature(signer.sign(_PROBE), _PROBE))

    def raise_failed(self, keys: Iterable[Key]) -> None:
        """Raise why the first of these keys that failed could not be used. Raises SigningKeyError."""
        for key in keys:
            if key.keyid in self.failed:
                raise self.failed[key.keyid]

    def report_failed(self, keys: Iterable[Key], role: str) -> None:
        """Warn about the keys of a role that cannot be used, where the others are enough."""
        for key in keys:
            if key.keyid in self.failed and key.keyid not in self.reported:
                self.reported.add(key.keyid)  # one warning is enough
                log.warning(
                    "%s; the key %s of %s has not signed, the others are enough",
                    self.failed[key.keyid].message,
                    short_keyid(key.keyid),
                    role,
                )

    def _signer(self, key: Key) -> Signer:
        uri = self.uris[key.keyid]
        try:
            if _is_pem(uri):
                return CryptoSigner(_private_key(uri, self.folder, self.secrets), _sslib_key(key))
            return Signer.from_priv_key_uri(uri, key, _secrets_of(uri, self.secrets, self.refused_pins))
        except SigningKeyError:
            raise
        except Exception as error:  # libraries of tokens and key services raise any exception
            raise _unusable(uri, error) from error


def _secrets_of(uri: str, secrets: Secrets, refused: RefusedPins) -> Secrets:
    """Return the source of secrets for a library, which asks for every PIN as "pin"."""
    if not uri.startswith(PKCS11_SCHEME):
        return secrets
    return refused.handler(uri, lambda: secrets(f"{PIN_OF}{token_label(uri)}"))


def key_source(text: str, folder: Path, secrets: Secrets) -> KeySource:
    """Return the key given on the command line as ``URI`` or ``URI,PUBLIC.pem``.

    Relative paths start at ``folder``.

    Raises:
        SigningKeyError: the key cannot be read, or has a type that not every client verifies.
    """
    uri, _, public = text.partition(",")
    key = load_public(folder / public) if public else _tuf_key(_public_half(uri, folder, secrets), uri)
    if uri.startswith(FILE_SCHEME):
        uri = f"{FILE_SCHEME}{folder / uri.removeprefix(FILE_SCHEME)}"
    return KeySource(uri=uri, key=key)


def given_key(text: str, repo: Path, secrets: Secrets) -> KeySource:
    """Return a key given on the command line for a repository; its URI is what ``repo.toml`` needs.

    Relative paths start at the current folder. If no file is there, they start at the repository, which
    earlier versions started from. Where no repository is, the URI is absolute.

    Raises:
        SigningKeyError: a path means one file in the current folder and another one in the repository; and
            what :func:`key_source` raises.
    """
    uri, _, public = text.partition(",")
    if public:
        public = str(_given_path(public, repo))
    if not uri.startswith(FILE_SCHEME):
        return key_source(f"{uri},{public}" if public else uri, _HERE, secrets)
    typed = uri.removeprefix(FILE_SCHEME)
    path = _given_path(typed, repo)
    try:
        found = key_source(
            f"{FILE_SCHEME}{path},{public}" if public else f"{FILE_SCHEME}{path}", _HERE, secrets
        )
    except SigningKeyError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise SigningKeyError(error.message, next_step=_MAKE_KEY) from error
        raise
    place, folder = path.absolute(), repo.absolute()
    if not (repo / config.FILE).is_file():  # nothing that a relative path could start from
        return KeySource(uri=f"{FILE_SCHEME}{place}", key=found.key)
    if path == repo / typed:
        return KeySource(uri=uri, key=found.key)  # as it was written: absolute, or relative to the repository
    inside = place.relative_to(folder) if place.is_relative_to(folder) else place
    return KeySource(uri=f"{FILE_SCHEME}{inside}", key=found.key)


def _given_path(typed: str, repo: Path) -> Path:
    here, there = _HERE / typed, repo / typed
    if not there.exists():
        return here
    if not here.exists():
        return there
    if not here.samefile(there):
        raise SigningKeyError(
            f"{typed} is a file in the current folder, and another one in {repo}",
            next_step="Write the absolute path of the key that you mean.",
        )
    return here


def require_usable(key: Key) -> None:
    """Refuse a public key that some client does not verify or knows by another keyid. Raises SigningKeyError.

    tough computes the keyid itself and refuses a root in which it differs.
    """
    if _tuf_key(_crypto_key(key), f"the key {key.keyid}").keyid != key.keyid:
        raise SigningKeyError(
            f"the key {key.keyid} is listed under a keyid that is not its SHA-256",
            next_step="Do not sign this; ask its author to create it again.",
        )


def public_pem(key: Key) -> bytes:
    """Return a public key as a PEM file. Raises SigningKeyError."""
    return _crypto_key(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def is_same_key(one: Key, other: Key) -> bool:
    """Return whether two public keys are the same key, whatever keyids they are listed under.

    tuftool and securesystemslib compute different keyids for one key, for example if its PEM lacks the last
    newline.
    """
    try:
        return public_pem(one) == public_pem(other)
    except SigningKeyError:  # a type that only other tools can use
        return one.keyid == other.keyid


def create_key(medium: Medium, path: Path, passphrase: str | None, note: str = "") -> KeySource:
    """Create an ed25519 key in a new PEM file ``path``, mode 0600, and return it.

    Args:
        medium: the file is written through it.
        path: must not exist. The URI of the key is ``file2:`` with this path.
        passphrase: encrypts the key, if given.
        note: text in front of the PEM.

    Raises:
        MediumError: the file exists or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
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
    """Create a key whose file says that it is a test key.

    Its URI is ``file2:`` with the last two parts of the path: the repository's folder ``keys`` and the file.

    Raises:
        MediumError: the file exists or cannot be written.
    """
    note = f"{TEST_KEY_NOTE} {path.stem}: created by `repo-tools new`; do not use it for a real fleet.\n"
    created = create_key(medium, path, passphrase, note)
    return KeySource(uri=f"{FILE_SCHEME}{path.parent.name}/{path.name}", key=created.key)


def _is_pem(uri: str) -> bool:
    return uri.startswith((FILE_SCHEME, VARIABLE_SCHEME))


def _private_key(uri: str, folder: Path, secrets: Secrets) -> Any:
    """Return the private key of a file or variable; its passphrase is requested if it is encrypted."""
    data, place = _read_pem(uri, folder)
    return formats.private_key(data, place, lambda: secrets(f"{PASSPHRASE_OF}{place}").encode())


def _read_pem(uri: str, folder: Path) -> tuple[bytes, str]:
    """Return the PEM that a URI points to, and the file or variable that it is in."""
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


def _public_half(uri: str, folder: Path, secrets: Secrets) -> PublicKeyTypes:
    """Return the public half of a key, read from the key itself."""
    if _is_pem(uri):
        public: PublicKeyTypes = _private_key(uri, folder, secrets).public_key()
        return public
    if not uri.startswith((PKCS11_SCHEME, KMS_SCHEME)):
        raise SigningKeyError(
            f"{uri}: the public key cannot be read from a key of this scheme",
            next_step="Write it as URI,PUBLIC.pem with the public key as a PEM file.",
        )
    try:
        return _crypto_key(_imported(uri, secrets))
    except Exception as error:  # libraries of tokens and key services raise any exception
        raise _unusable(uri, error) from error


def _imported(uri: str, secrets: Secrets) -> SSlibKey:
    """Return the public half of a key as a PKCS#11 token or AWS KMS reports it."""
    from urllib.parse import urlparse

    from securesystemslib.signer import AWSSigner, HSMSigner

    if uri.startswith(KMS_SCHEME):
        return AWSSigner.import_(uri.removeprefix(KMS_SCHEME))[1]
    path = urlparse(uri).path
    number = int(path) if path else None
    return HSMSigner.import_(number, token_label(uri) or None, _secrets_of(uri, secrets, RefusedPins()))[1]


def _unusable(uri: str, error: Exception) -> SigningKeyError:
    """Return the error for a key that cannot be used; its next step names a missing extra."""
    extra = next((extra for scheme, extra in _EXTRAS.items() if uri.startswith(scheme)), "")
    missing = isinstance(error, (UnsupportedLibraryError, ImportError)) and extra
    cause = cause_of(error)
    next_step = how_to_install(extra) if missing else ""
    if _is_wrong_pin(uri, error):
        label = token_label(uri)
        tries, advice = tries_left(uri)
        cause = f"the PIN of token {label!r} was not accepted ({cause})" + (f"; {tries}" if tries else "")
        next_step = f"Set {secret_variables(f'{PIN_OF}{label}')[0]} to the PIN of this token. {advice}"
    return SigningKeyError(f"cannot use the key at {uri}: {cause}", next_step=next_step)


def _is_wrong_pin(uri: str, error: Exception) -> bool:
    """Return whether a token did not accept the PIN; python-pkcs11 has several errors for that."""
    return uri.startswith(PKCS11_SCHEME) and "PIN" in f"{type(error).__name__} {cause_of(error)}".upper()


def cause_of(error: BaseException) -> str:
    """Return the text of an exception, or its name: those of python-pkcs11 often have no text."""
    text = str(error)
    return f"{type(error).__name__} {text}" if isinstance(error, KeyError) else text or type(error).__name__


def load_public(path: Path) -> Key:
    """Return the public key in a PEM file, if every client verifies its type. Raises SigningKeyError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SigningKeyError(f"cannot read the public key {path}: {error.strerror}") from error
    return _tuf_key(formats.public_key(data, str(path)), str(path))


def _tuf_key(public: PublicKeyTypes, place: str) -> Key:
    """Return the TUF key of a public key, if every client verifies its type. Raises SigningKeyError."""
    try:
        key = SSlibKey.from_crypto(public)
    except (ValueError, SslibError, KeyError) as error:
        raise SigningKeyError(f"{place}: {error}") from error
    too_short = key.keytype == "rsa" and getattr(public, "key_size", _LEAST_RSA_BITS) < _LEAST_RSA_BITS
    if key.scheme not in _SCHEMES or too_short:
        raise SigningKeyError(
            f"{place}: {key.keytype} {key.scheme} is not verified by every client",
            next_step="Use ed25519, ECDSA P-256 or RSA of at least 2048 bits.",
        )
    return key


def _crypto_key(key: Key) -> PublicKeyTypes:
    """Return a TUF key as a key of the library ``cryptography``. Raises SigningKeyError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    value: str = _sslib_key(key).keyval["public"]  # of an OpenPGP key, it is a table
    try:
        if key.keytype == "ed25519":
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(value))
        return load_pem_public_key(value.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"the key {key.keyid} cannot be read: {error}") from error


def _sslib_key(key: Key) -> SSlibKey:
    """Return the key, of a type that securesystemslib can sign with. Raises SigningKeyError."""
    if not isinstance(key, SSlibKey):
        raise SigningKeyError(
            f"the key {key.keyid} ({key.keytype} {key.scheme}) is not verified by every client",
            next_step="Use ed25519, ECDSA P-256 or RSA of at least 2048 bits.",
        )
    return key
