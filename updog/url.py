"""URLs that may contain a secret: a login before the host, or a token in the query. PURE.

Rules it enforces:

* what prints is the *address*: scheme, host, port and path. ``str`` and ``repr`` have nothing else, so that
  a message, a log line, the history or a JSON document cannot contain the secret by mistake;
* the login and the query leave a :class:`Url` only where a request is sent (:mod:`updog.transport`);
* a text of others (an exception of a library, a URL that does not parse) goes through
  :func:`without_secrets` before it is printed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection

WEB = ("http", "https")
_NOT_PRINTABLE = re.compile(r"[\x00-\x20\x7f\\]")
_LOGIN = re.compile(r"//[^\s'\"<>]*@")  # up to the last @: a password may have an unencoded @ or / in it
_BARE_LOGIN = re.compile(r"(?<![\w/.%+~-])[^\s'\"<>/:@]+:[^\s'\"<>@]+@")  # without a scheme before it
_QUERY = re.compile(r"(?<=[^\s?])\?[^\s'\"<>)\]]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Url:
    """A URL in two parts: what may be printed, and what may not.

    Attributes:
        address: scheme, host, port and path. scheme: empty if it was not given.
        login: ``user:password`` as written, percent-encoded; empty if there is none.
        query: the parameters as written, without the question mark; empty if there are none.
    """

    address: str
    login: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    def __str__(self) -> str:
        return self.address

    @property
    def scheme(self) -> str:
        """The scheme in lower case; empty if it was not given."""
        scheme, separator, _ = self.address.partition("://")
        return scheme if separator else ""

    @classmethod
    def parse(cls, text: str, schemes: Collection[str]) -> Url:
        """Return the two parts of ``text``.

        Raises:
            ValueError: its scheme is none of ``schemes``, it has no host (a ``file`` URL: it has one, or a
                query), its port is not a port, or it has a fragment or characters that no URL has. The
                error's text does not contain ``text``.
        """
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in schemes:
            raise ValueError(f"not a URL with {' or '.join(schemes)}")
        if "#" in text or (scheme in WEB and _NOT_PRINTABLE.search(text)):
            raise ValueError("a fragment, a space or a control character in a URL")
        if scheme == "file":
            if not rest.startswith("/") or "?" in rest:
                raise ValueError("a file URL has neither a host nor a query: file:///folder/")
            return cls(address=text)
        try:
            parts = urlsplit(text)
            valid = bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError("no valid host and port in a URL") from None
        login, _, place = parts.netloc.rpartition("@")
        return cls(address=f"{scheme}://{place}{parts.path}", login=login, query=parts.query)

    @classmethod
    def parse_base(cls, text: str) -> Url:
        """Return the http, https or file URL in ``text``, ending in a slash. Raises ValueError."""
        return cls.parse(text, (*WEB, "file")).folder()

    def folder(self) -> Url:
        """Return the URL with a slash at the end of its path."""
        return self if self.address.endswith("/") else replace(self, address=f"{self.address}/")

    def below(self, path: str) -> str:
        """Return the address of a file below this folder.

        All characters that mean something in a URL are encoded, ``+`` too: S3 reads it as a space.
        """
        return self.folder().address + quote(path)

    def covers(self, address: str) -> bool:
        """Return whether ``address`` is this one or, if this is a folder, below it."""
        return address == self.address or (self.address.endswith("/") and address.startswith(self.address))

    def with_query(self, address: str) -> str:
        """Return an address that this URL covers, with its query: a SECRET text, for a request alone."""
        return f"{address}?{self.query}" if self.query else address

    def with_login(self) -> str:
        """Return the address with its login: a SECRET text, for a request alone."""
        scheme, separator, rest = self.address.rpartition("//")
        return f"{scheme}{separator}{self.login}@{rest}" if self.login else self.address

    def credentials(self) -> tuple[bytes, bytes] | None:
        """Return user and password, decoded, for RFC 7617's basic authentication; None without a login."""
        user, _, password = self.login.partition(":")
        return (unquote(user).encode(), unquote(password).encode()) if self.login else None


def without_secrets(text: str) -> str:
    """Return ``text`` with the logins and queries of all URLs in it removed.

    Rather too much is removed than too little: the path too, where an unencoded password may go on in it.
    """
    return _QUERY.sub("?…", _BARE_LOGIN.sub("", _LOGIN.sub("//", text)))
