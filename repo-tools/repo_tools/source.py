"""The two places a repository can be read from: a folder, and a web server.

Rules:

* reading never changes anything and takes no lock;
* a file that is not there is None; any other failure is an error that names the path or the URL;
* the server's bytes are capped while they stream, and asked for without content encoding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repo_tools.errors import RepositoryUnreachableError
from signpost.errors import MediumError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

    from repo_tools.chain import Source

BLOCK_BYTES = 1 << 20  # one read; larger gains nothing measurable
_PATIENCE = (10, 60)  # seconds to connect, and between two reads
_PARTIAL = 206
_TRIES = 3  # in a row without a single new byte
_MAX_AGE = re.compile(r"max-age=([0-9]{1,12})")
_ABSENT = frozenset({403, 404, 410})  # what buckets and web servers answer for a file they do not have


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """What a web server does.

    Attributes:
        ranges: whether it sends a part of a file when asked for one.
        max_age: seconds that caches may keep the file, as far as it says so.
    """

    ranges: bool
    max_age: int


class FolderSource:
    """A repository on this machine.

    Args:
        folder: holds ``metadata`` and ``targets``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str, most: int) -> bytes | None:
        """Return a file of at most ``most`` bytes. Raises MediumError."""
        blocks = self.blocks(path)
        return None if blocks is None else _joined(blocks, most, str(self._folder / path))

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        """Return a file block by block from byte ``start``. Raises MediumError."""
        whole = self._folder / path
        return file_blocks(whole, start) if whole.is_file() else None

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes."""
        whole = self._folder / path
        return whole.stat().st_size if whole.is_file() else None

    def names(self, folder: str) -> list[str] | None:
        """Return the names of the files in a folder and below it, sorted; none where it is not there."""
        place = self._folder / folder
        return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())

    def manners(self, path: str) -> Manners | None:
        """Return None: nobody serves a folder."""
        del path
        return None


def file_blocks(path: Path, start: int = 0) -> Iterator[bytes]:
    """Yield a local file block by block from byte ``start``. Raises MediumError."""
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            while block := stream.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise MediumError(f"cannot read {path}: {error.strerror}") from error


class UrlSource:
    """A repository behind a base URL; ``names`` cannot be asked there.

    Args:
        base: URL of the folder that holds ``metadata`` and ``targets``.
    """

    def __init__(self, base: str) -> None:
        import requests

        self._base = base.rstrip("/")
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"

    def read(self, path: str, most: int) -> bytes | None:
        """Return a file of at most ``most`` bytes. Raises RepositoryUnreachableError."""
        blocks = self.blocks(path)
        return None if blocks is None else _joined(blocks, most, f"{self._base}/{path}")

    def blocks(self, path: str, start: int = 0) -> Iterator[bytes] | None:
        """Return a file block by block from byte ``start``. Raises RepositoryUnreachableError."""
        response = self._asked("GET", path, start)
        if response is None:
            return None
        ranged = response.status_code == _PARTIAL
        return _body(response) if ranged or not start else _from(_body(response), start)

    def size(self, path: str) -> int | None:
        """Return the size that the server says a file has. Raises RepositoryUnreachableError."""
        response = self._asked("HEAD", path)
        return None if response is None else int(response.headers.get("Content-Length", -1))

    def names(self, folder: str) -> list[str] | None:
        """Return None: a web server lists nothing."""
        del folder
        return None

    def manners(self, path: str) -> Manners | None:
        """Return how the server answers a request for a part of a file. Raises RepositoryUnreachableError."""
        response = self._asked("GET", path, 1)
        if response is None:
            return None
        with response:
            stated = _MAX_AGE.search(response.headers.get("Cache-Control", ""))
            return Manners(ranges=response.status_code == _PARTIAL, max_age=int(stated[1]) if stated else 0)

    def _asked(self, method: str, path: str, start: int = 0) -> requests.Response | None:
        """Return the server's answer, None where it has no such file. Raises RepositoryUnreachableError."""
        from requests import RequestException

        url = f"{self._base}/{path}"
        try:
            response = self._session.request(
                method,
                url,
                headers={"Range": f"bytes={start}-"} if start else None,
                stream=True,
                timeout=_PATIENCE,
                allow_redirects=True,
            )
        except RequestException as error:
            raise RepositoryUnreachableError(f"cannot get {url}: {error}") from error
        if response.ok:
            return response
        response.close()
        if response.status_code in _ABSENT:
            return None
        raise RepositoryUnreachableError(f"{url} answered HTTP {response.status_code}")


def _body(response: requests.Response) -> Iterator[bytes]:
    """Yield what comes as it comes, so that nothing is lost of what came before a line broke."""
    from urllib3.exceptions import HTTPError

    try:
        with response:
            while block := response.raw.read1(BLOCK_BYTES, decode_content=False):
                yield block
    except (HTTPError, OSError) as error:
        raise RepositoryUnreachableError(f"{response.url} broke off: {error}") from error


def _from(blocks: Iterator[bytes], start: int) -> Iterator[bytes]:
    """Yield what comes from byte ``start`` on, where a server gave all."""
    for block in blocks:
        yield block[start:]
        start = max(0, start - len(block))


def _joined(blocks: Iterator[bytes], most: int, place: str) -> bytes:
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > most:
            raise RepositoryUnreachableError(
                f"{place} is longer than {most} bytes",
                next_step="No repository has such a file; check the place.",
            )
    return bytes(content)


def steady(source: Source, path: str, length: int, start: int = 0) -> Iterator[bytes] | None:
    """Return a file of ``length`` bytes from byte ``start``, taken up by range where the line breaks.

    A longer file gives what the source gives; the caller compares. None where there is no such file.

    Raises:
        RepositoryUnreachableError: the line breaks again and again without a new byte.
    """
    first = source.blocks(path, start)
    return None if first is None else _taken_up(source, path, length, start, first)


def _taken_up(
    source: Source, path: str, length: int, position: int, blocks: Iterator[bytes] | None
) -> Iterator[bytes]:
    failures = 0
    while blocks is not None:
        before = position
        try:
            for block in blocks:
                position += len(block)
                yield block
        except RepositoryUnreachableError:
            failures = failures + 1 if position == before else 1
            if failures >= _TRIES or position >= length:
                raise
            blocks = _asked_again(source, path, position)
        else:
            return


def _asked_again(source: Source, path: str, position: int) -> Iterator[bytes] | None:
    """Return the rest of a file; a request that fails counts as a line that broke."""
    try:
        return source.blocks(path, position)
    except RepositoryUnreachableError as error:
        return _broken(error)


def _broken(error: RepositoryUnreachableError) -> Iterator[bytes]:
    raise error
    yield b""  # makes this a generator: the error comes when the rest is read


def source_of(place: str | Path) -> Source:
    """Return the source of a repository named by an http(s) URL or a folder."""
    from pathlib import Path

    text = str(place)
    return UrlSource(text) if text.startswith(("http://", "https://")) else FolderSource(Path(text))
