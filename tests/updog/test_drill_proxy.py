"""The proxy passes a repository on unchanged, and holds a response where it is told to."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING

import pytest
import requests

from tests.support.http_server import HttpServer, unused_port
from updog.drill.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 1024


@pytest.fixture(params=["folder", "web"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxy]:
    """Return a proxy of a folder, and one of a web server."""
    files = {"metadata/1.root.json": b"{}", "targets/a b.img": CONTENT}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "secret").write_bytes(b"secret")
    with HttpServer(files) as server:
        base = f"{tmp_path.as_uri()}/" if request.param == "folder" else server.url("")
        with Proxy(f"{base}metadata/", f"{base}targets/") as proxy:
            yield proxy


def _get(proxy: Proxy, path: str, wanted: str = "") -> requests.Response:
    headers = {"Range": wanted} if wanted else {}
    return requests.get(f"http://127.0.0.1:{proxy.port}/{path}", headers=headers, timeout=60)


def test_whole_files_are_passed_on(proxy: Proxy) -> None:
    assert _get(proxy, "metadata/1.root.json?seed=1").content == b"{}"
    answer = _get(proxy, "targets/a%20b.img")
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["ETag"]


@pytest.mark.parametrize(
    ("wanted", "part"), [("bytes=7-", slice(7, None)), ("bytes=262140-", slice(-4, None))]
)
def test_ranges_are_passed_on(proxy: Proxy, wanted: str, part: slice) -> None:
    answer = _get(proxy, "targets/a%20b.img", wanted)
    assert (answer.status_code, answer.content) == (206, CONTENT[part])
    assert answer.headers["Content-Range"] == f"bytes {wanted[6:-1]}-{len(CONTENT) - 1}/{len(CONTENT)}"


def test_a_range_behind_the_end_is_refused(proxy: Proxy) -> None:
    assert _get(proxy, "targets/a%20b.img", f"bytes={len(CONTENT)}-").status_code == 416


@pytest.mark.parametrize("path", ["metadata/none", "secret", "targets/../secret", "targets/", ""])
def test_only_the_repository_is_served(proxy: Proxy, path: str) -> None:
    assert _get(proxy, path.replace("..", "%2e%2e")).status_code == 404


def test_the_response_that_was_named_is_held_at_a_byte_until_it_is_released(proxy: Proxy) -> None:
    proxy.hold(2, 100_000 / len(CONTENT))
    assert _get(proxy, "metadata/1.root.json").content == b"{}"  # metadata are never held
    assert _get(proxy, "targets/a%20b.img").content == CONTENT  # nor is the first answer here
    got = bytearray()

    def fetch() -> None:
        with requests.get(
            f"http://127.0.0.1:{proxy.port}/targets/a b.img", stream=True, timeout=60
        ) as answer:
            for block in answer.iter_content(1000):
                got.extend(block)

    fetcher = Thread(target=fetch)
    fetcher.start()
    assert proxy.reached.wait(60)
    assert len(got) <= 100_000
    proxy.release()
    fetcher.join(60)
    assert bytes(got) == CONTENT
    assert _get(proxy, "targets/a%20b.img").content == CONTENT


def test_a_server_that_is_not_there_is_a_bad_gateway() -> None:
    base = f"http://127.0.0.1:{unused_port()}/"
    with Proxy(f"{base}metadata/", f"{base}targets/") as proxy:
        assert _get(proxy, "targets/a").status_code == 502
