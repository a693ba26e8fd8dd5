"""The transport over real TLS: who is believed, who we say we are, and never out of it (D68)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority
from tests.support.http_server import HttpServer, plain, redirect, unused_port
from updog.errors import UnreachableError
from updog.transport import HttpTransport, Settings

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = bytes(range(256)) * 100
NAME = "targets/image.zst"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def fetched(url: str, *, ca_file: Path | None = None, own: tuple[Path, ...] = ()) -> bytes:
    """Fetch with one try; ``own`` are certificate and key, or one file with both."""
    settings = Settings(
        tries=1,
        connect_timeout=5,
        stall_timeout=5,
        ca_file=str(ca_file) if ca_file else None,
        client_certificate=str(own[0]) if own else None,
        client_key=str(own[1]) if own[1:] else None,
    )
    with HttpTransport(settings) as transport:
        return b"".join(transport.stream(url, limit=len(CONTENT)))


@pytest.mark.parametrize(
    ("days", "host", "complaint"),
    [
        (30, "127.0.0.1", None),
        (-1, "127.0.0.1", "expired"),
        (30, "elsewhere.example", "(?i)mismatch|doesn't match|not valid for"),
    ],
    ids=["good", "expired", "wrong name"],
)
@pytest.mark.parametrize("by", ["configuration", "environment"])
def test_a_server_is_verified_by_the_given_certificates(
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    host: str,
    complaint: str | None,
    by: str,
) -> None:
    """D68."""
    ca_file = authority.file if by == "configuration" else None
    if ca_file is None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    with HttpServer({NAME: CONTENT}, tls=authority.serving(days=days, host=host)) as server:
        if complaint is None:
            assert fetched(server.url(NAME), ca_file=ca_file) == CONTENT
        else:
            with pytest.raises(UnreachableError, match=complaint):
                fetched(server.url(NAME), ca_file=ca_file)
            assert server.log == []


def test_a_certificate_nobody_vouches_for_is_refused(authority: Authority) -> None:
    """D68."""
    with (
        HttpServer({NAME: CONTENT}, tls=authority.serving()) as server,
        pytest.raises(UnreachableError, match="certificate verify failed"),
    ):
        fetched(server.url(NAME))


def test_the_configured_certificates_are_in_the_place_of_all_others(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names an authority wants no other, not even one that the environment brings in."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    other = Authority(tmp_path, "other")
    with (
        HttpServer({NAME: CONTENT}, tls=authority.serving()) as server,
        pytest.raises(UnreachableError, match="certificate verify failed"),
    ):
        fetched(server.url(NAME), ca_file=other.file)


@pytest.mark.parametrize("by", ["configuration", "environment"])
def test_a_missing_certificate_bundle_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    missing = tmp_path / "not-there.pem"
    if by == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(missing))
    with pytest.raises(UnreachableError, match=r"not-there\.pem"):
        fetched(f"https://127.0.0.1:{unused_port()}/x", ca_file=missing if by == "configuration" else None)


@pytest.mark.parametrize("files", [1, 2], ids=["one file", "two files"])
def test_a_client_certificate_opens_a_server_that_demands_one(
    authority: Authority, tmp_path: Path, files: int
) -> None:
    certificate, key = authority.issue("node")
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    own = (certificate, key) if files == 2 else (both,)
    with HttpServer({NAME: CONTENT}, tls=authority.serving(clients=authority.file)) as server:
        assert fetched(server.url(NAME), ca_file=authority.file, own=own) == CONTENT


def test_a_server_that_demands_a_certificate_is_unreachable_without_or_with_a_stranger_s(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("impostor")
    with HttpServer({NAME: CONTENT}, tls=authority.serving(clients=authority.file)) as server:
        for own in ((), stranger):
            with pytest.raises(UnreachableError, match=NAME):
                fetched(server.url(NAME), ca_file=authority.file, own=own)
        assert server.log == []


def test_a_client_certificate_that_is_not_there_is_said(authority: Authority, tmp_path: Path) -> None:
    with (
        HttpServer({NAME: CONTENT}, tls=authority.serving()) as server,
        pytest.raises(UnreachableError, match=r"nobody\.pem"),
    ):
        fetched(server.url(NAME), ca_file=authority.file, own=(tmp_path / "nobody.pem",))


def test_the_client_certificate_is_not_shown_where_a_redirect_leads(authority: Authority) -> None:
    """Another host gets no proof of who this node is."""
    own = authority.issue("node")
    demanding = authority.serving(clients=authority.file)
    with HttpServer({NAME: CONTENT}, tls=demanding) as other, HttpServer(tls=authority.serving()) as first:
        first.behave(NAME, redirect(other.url(NAME)))
        with pytest.raises(UnreachableError):
            fetched(first.url(NAME), ca_file=authority.file, own=own)
        assert other.log == []


def test_a_redirect_out_of_tls_is_refused(authority: Authority) -> None:
    with HttpServer({NAME: CONTENT}) as plainly, HttpServer(tls=authority.serving()) as first:
        first.behave(NAME, redirect(plainly.url(NAME)))
        with pytest.raises(UnreachableError, match="would leave TLS"):
            fetched(first.url(NAME), ca_file=authority.file)
        assert plainly.log == []


def test_a_redirect_into_tls_is_followed(authority: Authority) -> None:
    with HttpServer({NAME: CONTENT}, tls=authority.serving()) as secured, HttpServer() as first:
        first.behave(NAME, redirect(secured.url(NAME)))
        assert fetched(first.url(NAME), ca_file=authority.file) == CONTENT


def test_a_body_that_breaks_off_in_tls_is_continued(authority: Authority) -> None:
    """D60: with a second connection, which is verified like the first."""
    with HttpServer({NAME: CONTENT}, tls=authority.serving()) as server:
        server.behave(NAME, plain(cut=9000), plain())
        settings = Settings(tries=2, ca_file=str(authority.file))
        with HttpTransport(settings, sleep=lambda _: None) as transport:
            assert b"".join(transport.stream(server.url(NAME), limit=len(CONTENT))) == CONTENT
        assert [request.start for request in server.log] == [0, 9000]
