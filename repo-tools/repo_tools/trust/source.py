"""The places that a repository can be read from: a folder, and a web server.

Rules:

* reading changes nothing and takes no lock;
* a file that does not exist is None; any other failure is an error that names the path or the URL;
* buckets that may be read but not listed answer 403 for a file that does not exist. A server that has served
  nothing else, and answers 403 for the timestamp too, denies access: that is an error;
* the size of what a server sends is limited while it is read, and no content encoding is accepted.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from os import fsdecode
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from repo_tools.errors import RepositoryUnreachableError
from signpost.errors import MediumError, UsageError, innermost
from signpost.text import line
from updog.url import WEB, Url, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

__all__ = ["FolderSource", "Source", "UrlSource", "source_of"]


READ_BYTES = 1 << 20  # size of one read; a larger one is not measurably faster
_TIMEOUTS = (10, 60)  # seconds to connect, and between two reads
_PARTIAL = 206
_ATTEMPTS = 3  # in a row without a single new byte
_MAX_AGE = re.compile(r"max-age=([0-9]{1,12})")
_FORBIDDEN = 403
_ABSENT = frozenset({_FORBIDDEN, 404, 410})  # answers of buckets and web servers for a missing file
_FILE = "file:/"
_PROOF = "metadata/timestamp.json"  # every repository has it
_DENIED = "Check the login or token in the URL, and that the server lets readers read the files."
_ADVICE = {
    401: _DENIED,
    407: "Log in to the proxy.",
    511: "Log in to the network first.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerBehaviour:
    """How a web server serves a file.

    Attributes:
        ranges: whether it answers a request for a part of the file with that part.
        max_age: seconds that caches may keep the file; 0 if the server does not say.
    """

    ranges: bool
    max_age: int


class Source(Protocol):
    """A place to read a repository from. Paths begin with ``metadata/`` or ``targets/``."""

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a whole file of at most ``limit`` bytes, None if it does not exist."""
        ...

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        """Return a file's content from byte ``start`` in small blocks, None if it does not exist."""
        ...

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, None if it does not exist."""
        ...

    def names(self, folder: str) -> list[str] | None:
        """Return the names of the files in ``metadata`` or ``targets``, None if they cannot be listed."""
        ...

    def server_behaviour(self, path: str) -> ServerBehaviour | None:
        """Return how a web server serves this file, None without a server or without such a file."""
        ...


def source_of(place: str | Path) -> Source:
    """Return the source for an http(s) or ``file:`` URL, or the path of a folder.

    Raises:
        UsageError: it is another URL, such as that of a bucket.
    """
    text = str(place)
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in ("http", "https"):
        return UrlSource(text)
    return FolderSource(folder_of(text))


def folder_of(place: str) -> Path:
    """Return the folder that a path or a ``file:`` URL names.

    Raises:
        UsageError: it is another URL, or a ``file:`` URL of another host or with more than a path.
    """
    from pathlib import Path

    if "://" not in place and not place.startswith(_FILE):
        return Path(place)
    url = urlsplit(place)
    if url.scheme == "file" and url.netloc in ("", "localhost"):
        path = unquote_to_bytes(url.path)
        if url.query or url.fragment or b"\0" in path:
            raise UsageError(
                f"{place} is not the URL of a folder: it has a query, a fragment or a NUL",
                next_step="Write the path of the folder; or, in the URL, ? as %3F and # as %23.",
            )
        return Path(fsdecode(path))
    if url.scheme == "file":
        raise UsageError(
            f"{place} names a folder of the host {url.netloc!r}",
            next_step="Write file:///FOLDER with three slashes, or the path of the folder.",
        )
    raise UsageError(
        f"{without_secrets(place)}: repositories are not read by {url.scheme}://",
        next_step="Name the http(s) URL that nodes read it by, or a folder that it was copied to.",
    )


class FolderSource:
    """A repository in a folder of this machine.

    Args:
        folder: contains ``metadata`` and ``targets``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._folder

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a file of at most ``limit`` bytes. Raises MediumError."""
        blocks = self.blocks(path)
        return None if blocks is None else _content(blocks, limit, str(self._folder / path))

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        """Return a file block by block from byte ``start``. Raises MediumError."""
        file = self._folder / path
        return file_blocks(file, start) if _is_file(file) else None

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes. Raises MediumError."""
        file = self._folder / path
        return file.stat().st_size if _is_file(file) else None

    def names(self, folder: str) -> list[str] | None:
        """Return the names of the files in a folder and below it, sorted; [] if the folder does not exist."""
        place = self._folder / folder
        return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())

    def links_out(self) -> list[str]:
        """Return the paths of the links below ``metadata`` and ``targets`` that lead out of the folder."""
        inside = self._folder.resolve()
        files = (path for part in ("metadata", "targets") for path in (self._folder / part).rglob("*"))
        links = [path for path in files if path.is_symlink() and not _leads_into(path, inside)]
        return sorted(str(path.relative_to(self._folder)) for path in links)

    def server_behaviour(self, path: str) -> ServerBehaviour | None:
        """Return None: a folder has no server."""
        del path
        return None


def _is_file(path: Path) -> bool:
    """Return whether a file exists. Raises MediumError if that cannot be known."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no folder has a file of such a name
            return False
        raise MediumError.of(f"cannot read {path}: {error.strerror}", error) from error


def _leads_into(link: Path, folder: Path) -> bool:
    try:
        return link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # a loop
        return False


def file_blocks(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yield the content of a local file from byte ``start``, block by block. Raises MediumError."""
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            while block := stream.read(READ_BYTES):
                yield block
    except OSError as error:
        raise MediumError.of(f"cannot read {path}: {error.strerror}", error) from error


class UrlSource:
    """A repository on a web server, whose files cannot be listed.

    Args:
        base: URL of the folder that contains ``metadata`` and ``targets``; its login and its query are sent
            with each request, and never printed.

    Raises:
        UsageError: it is not a URL.
    """

    def __init__(self, base: str) -> None:
        import requests

        try:
            self._url = Url.parse(base, WEB)
        except ValueError as error:
            raise UsageError(
                f"{without_secrets(base)} is not the URL of a repository",
                next_step="Write https://HOST/PATH; percent-encode special characters of a password.",
            ) from error
        self._base = str(self._url).rstrip("/")
        self._served = False  # whether it has answered with a file
        self._session = requests.Session()
        self._session.auth = self._url.credentials()  # type: ignore[assignment]  # bytes are sent as they are
        self._session.headers["Accept-Encoding"] = "identity"

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a file of at most ``limit`` bytes. Raises RepositoryUnreachableError."""
        blocks = self.blocks(path)
        return None if blocks is None else _content(blocks, limit, f"{self._base}/{path}")

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        """Return a file block by block from byte ``start``. Raises RepositoryUnreachableError."""
        response = self._request("GET", path, start)
        if response is None:
            return None
        ranged = response.status_code == _PARTIAL
        return _body(response) if ranged or not start else _skip(_body(response), start)

    def size(self, path: str) -> int | None:
        """Return the size of a file as the server reports it. Raises RepositoryUnreachableError."""
        response = self._request("HEAD", path)
        return None if response is None else int(response.headers.get("Content-Length", -1))

    def names(self, folder: str) -> list[str] | None:
        """Return None: the files of a web server cannot be listed."""
        del folder
        return None

    def server_behaviour(self, path: str) -> ServerBehaviour | None:
        """Return how the server answers a request for a part of a file. Raises RepositoryUnreachableError."""
        response = self._request("GET", path, 1)
        if response is None:
            return None
        with response:
            stated = _MAX_AGE.search(response.headers.get("Cache-Control", ""))
            return ServerBehaviour(
                ranges=response.status_code == _PARTIAL, max_age=int(stated[1]) if stated else 0
            )

    def _request(self, method: str, path: str, start: int = 0) -> requests.Response | None:
        """Return the server's answer, None if the file does not exist. Raises RepositoryUnreachableError."""
        from requests import RequestException

        url = self._url.below(path)
        try:
            response = self._session.request(
                method,
                self._url.with_query(url),
                headers={"Range": f"bytes={start}-"} if start else None,
                stream=True,
                timeout=_TIMEOUTS,
                allow_redirects=True,
            )
        except RequestException as error:
            raise RepositoryUnreachableError(f"cannot get {url}: {_cause(error)}") from error
        if response.ok:
            self._served = True
            return response
        response.close()
        status = response.status_code
        if status == _FORBIDDEN and not self._served:
            if path == _PROOF:
                message = f"{url} answered HTTP {status}, as for every file so far: access is denied"
                raise RepositoryUnreachableError(message, next_step=_DENIED)
            if proof := self._request("GET", _PROOF):
                proof.close()
        if status in _ABSENT:
            return None
        raise RepositoryUnreachableError(f"{url} answered HTTP {status}", next_step=_ADVICE.get(status, ""))


def _cause(error: Exception) -> str:
    """Return in one line why a request failed: what the system said, without the libraries around it."""
    cause = innermost(error)
    return line(without_secrets(str(cause)) or type(cause).__name__)


def _body(response: requests.Response) -> Iterator[bytes]:
    """Yield the content as it arrives, so that nothing that arrived is lost if the connection breaks."""
    from urllib3.exceptions import HTTPError

    try:
        with response:
            while block := response.raw.read1(READ_BYTES, decode_content=False):
                yield block
    except (HTTPError, OSError) as error:
        raise RepositoryUnreachableError(
            without_secrets(f"the connection broke while reading {response.url}: {_cause(error)}")
        ) from error


def _skip(blocks: Iterator[bytes], start: int) -> Iterator[bytes]:
    """Yield the content from byte ``start`` of a server that ignored the range and sent everything."""
    for block in blocks:
        yield block[start:]
        start = max(0, start - len(block))


def _content(blocks: Iterator[bytes], limit: int, place: str) -> bytes:
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > limit:
            raise RepositoryUnreachableError(
                f"{place} is longer than {limit} bytes",
                next_step="No repository has a file of this size there; check the path or URL.",
            )
    return bytes(content)


def resumable_blocks(source: Source, path: str, length: int, start: int = 0) -> Iterator[bytes] | None:
    """Return the content of a file of ``length`` bytes from byte ``start``, None if it does not exist.

    When the connection breaks, the rest is requested by range. A file longer than ``length`` is returned as
    the source sends it; the caller compares.

    Raises:
        RepositoryUnreachableError: the connection breaks repeatedly without a new byte.
    """
    blocks = source.blocks(path, start)
    return None if blocks is None else _resume(source, path, length, start, blocks)


def _resume(
    source: Source, path: str, length: int, position: int, blocks: Iterator[bytes] | None
) -> Iterator[bytes]:
    failures = 0
    while True:
        before = position
        try:
            if blocks is None and (blocks := source.blocks(path, position)) is None:
                return
            for block in blocks:
                position += len(block)
                yield block
        except RepositoryUnreachableError:
            failures = failures + 1 if position == before else 1
            if failures >= _ATTEMPTS or position >= length:
                raise
            blocks = None
        else:
            return
