"""PKCS#11 tokens: what their URIs name, what they tell about wrong PINs, and the PINs they have refused.

Rules:

* a token counts wrong PINs and locks itself after a few: a PIN that a token has refused is not given to it
  again (:class:`RefusedPins`), whatever key of it, and under whatever URI, is used next;
* PKCS#11 has no count of the tries left, only three flags (CKF_USER_PIN_COUNT_LOW, _FINAL_TRY, _LOCKED);
  they are read after the failure, since each one is set by it.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from repo_tools.errors import SigningKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT_LOW, FINAL_TRY, LOCKED = 1 << 16, 1 << 17, 1 << 18
"""Bits of CK_TOKEN_INFO.flags (PKCS#11 v3.1, section 3.2)."""


def token_label(uri: str) -> str:
    """Return the label of the token in a URI of scheme ``hsm:``; "" if it names none."""
    return dict(parse_qsl(urlsplit(uri).query)).get("label", "")


def tries_text(flags: int) -> tuple[str, str]:
    """Return what a token's flags tell about the tries left, and what to do about it."""
    if flags & LOCKED:
        return "the token is locked", "Unlock it with its SO PIN or PUK, or use another key."
    if flags & FINAL_TRY:
        return "one try is left", "Make sure of the PIN first: one more wrong PIN locks the token."
    if flags & COUNT_LOW:
        return "the token has counted a wrong PIN", "After a few wrong PINs it locks itself."
    return "", "After a few wrong PINs a token locks itself."


def tries_left(uri: str) -> tuple[str, str]:
    """Return what the token of a URI tells about the tries left, and what to do about it."""
    try:
        return tries_text(int(_token(uri).flags))
    except Exception:  # noqa: BLE001 - the library of a token raises any exception; it tells nothing then
        return tries_text(0)


class RefusedPins:
    """The PINs that tokens have refused, for as long as a command runs."""

    def __init__(self) -> None:
        self._refused: set[tuple[str, bytes]] = set()
        self._given: dict[str, bytes] = {}

    def handler(self, uri: str, ask: Callable[[], str]) -> Callable[[str], str]:
        """Return what gives a library the PIN of a token; it raises SigningKeyError for a refused one."""

        def pin(_name: str) -> str:
            given = ask()
            tried = self._given[uri] = sha256(given.encode()).digest()
            if self._refused and (_identity(uri), tried) in self._refused:
                raise SigningKeyError(
                    f"the token {token_label(uri)!r} has refused this PIN before; it was not tried again",
                    next_step=tries_left(uri)[1],
                )
            return given

        return pin

    def add_last(self, uri: str) -> None:
        """Remember that the token of a URI has refused the PIN that it was given last."""
        if uri in self._given:
            self._refused.add((_identity(uri), self._given[uri]))


def _identity(uri: str) -> str:
    """Return what tells one token from others; the URI's label if the token cannot be read."""
    try:
        token = _token(uri)
    except Exception:  # noqa: BLE001 - the library of a token raises any exception
        return token_label(uri)
    return f"{token.manufacturer_id} {token.model} {token.serial!r}"


def _token(uri: str) -> Any:
    """Return the token of a URI, as it is now. Raises what its library raises."""
    import pkcs11

    return pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(
        token_label=token_label(uri) or None, token_flags=pkcs11.TokenFlag.TOKEN_INITIALIZED
    )
