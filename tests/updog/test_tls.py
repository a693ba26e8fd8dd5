"""The transport over real TLS: which peers are trusted, the node's own certificate, and no way out (D68)."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.http_server import HttpServer, plain, redirect, unused_port
from updog.errors import UnreachableError
from updog.transport import HttpTransport, TransportSettings

CONTENT = bytes(range(256)) * 100
NAME = "targets/image.zst"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def fetched(url: str, *, ca_file: Path | None = None, own: tuple[Path, ...] = ()) -> bytes:
    """Fetch with one try; ``own`` are certificate and key, or one file with both."""
    settings = TransportSettings(
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


@pytest.mark.skipif(shutil.which("faketime") is None, reason="Debian package faketime")
@pytest.mark.parametrize(
    ("moment", "cause"), [("1970-01-01 00:02", "not yet valid"), ("2045-01-01 00:00", "expired")]
)
def test_a_wrong_clock_is_named_where_a_certificate_fails_for_it(
    authority: Authority, moment: str, cause: str
) -> None:
    fetch = (
        "import sys; from updog.errors import UnreachableError; "
        "from updog.transport import HttpTransport, TransportSettings; "
        "settings = TransportSettings(tries=1, ca_file=sys.argv[2])\n"
        "try: list(HttpTransport(settings).stream(sys.argv[1], limit=9))\n"
        "except UnreachableError as error: print(error.message, error.next_step, sep='\\n')"
    )
    with HttpServer({NAME: CONTENT}, tls=authority.serving()) as server:
        command = ["faketime", "-f", f"@{moment}:00", sys.executable, "-c", fetch]
        done = subprocess.run(
            [*command, server.url(NAME), str(authority.file)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "TZ": "UTC"},
        )
    assert done.stderr == ""
    message, next_step = done.stdout.splitlines()
    assert cause in message
    assert f"the clock of this node says {moment}" in message
    assert next_step.startswith("Set the node's clock")


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
    """If an authority is configured, it is the only one, even if the environment adds another."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    other = Authority(tmp_path, "other")
    with (
        HttpServer({NAME: CONTENT}, tls=authority.serving()) as server,
        pytest.raises(UnreachableError, match="certificate verify failed"),
    ):
        fetched(server.url(NAME), ca_file=other.file)


@pytest.mark.parametrize("by", ["configuration", "environment"])
def test_a_missing_certificate_bundle_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    missing = tmp_path / "not-there.pem"
    if by == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(missing))
    with pytest.raises(UnreachableError, match=r"not-there\.pem"):
        fetched(f"https://127.0.0.1:{unused_port()}/x", ca_file=missing if by == "configuration" else None)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_openssl_s_variables_name_the_authorities_as_for_other_programs(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "hashed"
    folder.mkdir()
    (folder / "site.pem").write_bytes(authority.file.read_bytes())
    subprocess.run(["openssl", "rehash", str(folder)], check=True)
    places = {"SSL_CERT_FILE": str(authority.file), "SSL_CERT_DIR": f"{tmp_path}/not-there:{folder}"}
    monkeypatch.setenv(name, places[name])
    with HttpServer({NAME: CONTENT}, tls=authority.serving()) as server:
        assert fetched(server.url(NAME)) == CONTENT


def test_a_certificate_file_of_the_environment_that_is_missing_is_reported_and_no_other_is_used(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "not-there.pem"))
    with (
        HttpServer({NAME: CONTENT}, tls=authority.serving()) as server,
        pytest.raises(UnreachableError, match=r"not-there\.pem"),
    ):
        fetched(server.url(NAME))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_an_authority_in_the_system_s_store_is_trusted(authority: Authority, tmp_path: Path) -> None:
    """As ``update-ca-certificates`` puts it there; ``ca_file`` is not set."""
    system = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
    bundle = tmp_path / "ca-certificates.crt"
    bundle.write_bytes(system.read_bytes() + authority.file.read_bytes())
    fetch = (
        "import sys; from updog.transport import HttpTransport, TransportSettings; "
        "sys.stdout.buffer.write(b''.join(HttpTransport(TransportSettings(tries=1)).stream("
        "sys.argv[1], limit=1 << 20)))"
    )
    script = f'mount --bind {bundle} {system.resolve()} && exec {sys.executable} -c "$0" "$1"'
    with HttpServer({NAME: CONTENT}, tls=authority.serving()) as server:
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, fetch, server.url(NAME)]
        done = subprocess.run(command, capture_output=True, check=True)
        assert done.stdout == CONTENT
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            fetched(server.url(NAME))


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


def test_a_client_certificate_that_is_not_there_is_reported(authority: Authority, tmp_path: Path) -> None:
    with (
        HttpServer({NAME: CONTENT}, tls=authority.serving()) as server,
        pytest.raises(UnreachableError, match=r"nobody\.pem"),
    ):
        fetched(server.url(NAME), ca_file=authority.file, own=(tmp_path / "nobody.pem",))


def test_the_client_certificate_is_not_shown_where_a_redirect_leads(authority: Authority) -> None:
    """Another host does not get proof of this node's identity."""
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
        settings = TransportSettings(tries=2, ca_file=str(authority.file))
        with HttpTransport(settings, sleep=lambda _: None) as transport:
            assert b"".join(transport.stream(server.url(NAME), limit=len(CONTENT))) == CONTENT
        assert [request.start for request in server.log] == [0, 9000]
