"""Metadata as other publishers sign them, read by python-tuf. Importing this module makes it read them.

Rules:

* `expires` may have a fraction of a second or an offset (pubsys and tough, go-tuf). It is cut to the whole
  second before: metadata never live longer than was signed;
* an ECDSA key may be the hexadecimal uncompressed point (roots 1 to 4 of sigstore), or have the older key
  type that is the same as its scheme;
* a signature is verified over what was signed: the text of `expires` and of the key is written back as it was
  read, so that the canonical form, and with it every keyid, is that of the publisher. Nothing else of the
  check of a signature, a threshold, a version or an expiry is changed (docs/adr/0034).

Python-tuf accepts no other reader: its client calls ``Metadata.from_bytes``. So the two functions that read
and write the common fields are wrapped here, once, and the keys are registered where securesystemslib looks.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from securesystemslib.signer import KEY_FOR_TYPE_AND_SCHEME, SSlibKey
from tuf.api.metadata import Metadata, Signed

from updog.malformed import malformed
from updog.update_metadata.errors import TimeError
from updog.update_metadata.times import parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from securesystemslib.signer import Signature

__all__ = [
    "EcdsaKey",
    "malformed",
]  # one import for who reads and explains metadata: none forgets this one

_PLAIN = "%Y-%m-%dT%H:%M:%SZ"  # the only form that the specification and python-tuf have
_OTHER = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_AS_SIGNED = "_updog_expires_as_signed"
_POINT = re.compile(r"04[0-9a-fA-F]{128}")  # uncompressed, of P-256
_SCHEME = "ecdsa-sha2-nistp256"

_read = Metadata.from_dict.__func__  # type: ignore[attr-defined]
_common_fields = Signed._common_fields_to_dict  # noqa: SLF001 - see above


def _from_dict(cls: type[Metadata[Any]], document: dict[str, Any]) -> Metadata[Any]:
    """Read metadata as python-tuf does, with `expires` in any of the forms above."""
    signed = document["signed"]
    text = signed.get("expires") if isinstance(signed, dict) else None
    metadata: Metadata[Any]
    if not isinstance(text, str) or not _OTHER.fullmatch(text):
        metadata = _read(cls, document)
        if isinstance(text, str):  # python-tuf also reads "t" and "z": not what was signed
            setattr(metadata.signed, _AS_SIGNED, (text, metadata.signed.expires))
        return metadata
    try:
        moment = parse_time(text).replace(microsecond=0)
    except TimeError as error:
        raise ValueError(error.message) from error
    metadata = _read(cls, {**document, "signed": {**signed, "expires": moment.strftime(_PLAIN)}})
    setattr(metadata.signed, _AS_SIGNED, (text, moment))
    return metadata


def _common_fields_to_dict(self: Signed) -> dict[str, Any]:
    """Write the common fields as python-tuf does; `expires` as it was read, unless it was changed since."""
    fields = _common_fields(self)
    as_signed: tuple[str, datetime] | None = getattr(self, _AS_SIGNED, None)
    if as_signed and as_signed[1] == self.expires:
        fields["expires"] = as_signed[0]
    return fields


class EcdsaKey(SSlibKey):
    """An ECDSA key over P-256, in PEM or as a hexadecimal point; the older key type is taken as ``ecdsa``."""

    def verify_signature(self, signature: Signature, data: bytes) -> None:
        """Verify a signature as securesystemslib does. Raises UnverifiedSignatureError, VerificationError."""
        public = self.keyval["public"]
        point = None
        if _POINT.fullmatch(public):
            with suppress(ValueError):  # not a point of the curve: the library says so
                point = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), bytes.fromhex(public))
        if point is None:
            plain = SSlibKey(self.keyid, "ecdsa", self.scheme, self.keyval)
        else:
            plain = SSlibKey.from_crypto(point, keyid=self.keyid, scheme=self.scheme)
        plain.verify_signature(signature, data)


Metadata.from_dict = classmethod(_from_dict)  # type: ignore[assignment, method-assign]
Signed._common_fields_to_dict = _common_fields_to_dict  # type: ignore[method-assign]  # noqa: SLF001
for _keytype in ("ecdsa", _SCHEME):
    KEY_FOR_TYPE_AND_SCHEME[_keytype, _SCHEME] = EcdsaKey
