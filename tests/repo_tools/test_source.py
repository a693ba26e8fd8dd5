"""Repositories on web servers that require a login or a token: read with them, never printing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from repo_tools.copies.locations import destination_of
from repo_tools.errors import DestinationError, RepositoryUnreachableError
from repo_tools.trust.source import FolderSource, source_of
from signpost.errors import UsageError
from tests.support.http_server import HttpServer, answer, redirect, unused_port

if TYPE_CHECKING:
    from tests.support.http_server import Behaviour

SECRET = "S3cretPw"


def test_login_and_token_are_sent_and_the_path_goes_before_the_token() -> None:
    with HttpServer({"repo/metadata/1.root.json": b"{}"}) as server:
        base = server.url("repo", host=f"node:{SECRET}@127.0.0.1")
        assert source_of(f"{base}?sig={SECRET}%2B").read("metadata/1.root.json", 10) == b"{}"
        (request,) = server.log
    assert request.headers["Authorization"].startswith("Basic ")
    assert request.query == {"sig": f"{SECRET}+"}


@pytest.mark.parametrize(
    "behaviour",
    [answer(500), redirect("http://127.0.0.1:1/x?sig=S3cretPw"), redirect(f"ftp://node:{SECRET}@h/")],
    ids=["status", "elsewhere", "scheme"],
)
def test_a_failure_is_reported_without_them(
    behaviour: Behaviour,
) -> None:
    with HttpServer() as server:
        server.behave("metadata/1.root.json", behaviour)
        source = source_of(f"{server.url(host=f'node:{SECRET}@127.0.0.1')}?sig={SECRET}")
        with pytest.raises(RepositoryUnreachableError) as caught:
            source.read("metadata/1.root.json", 10)
    assert SECRET not in caught.value.message


def test_a_server_that_is_down_is_named_without_them() -> None:
    source = source_of(f"http://node:{SECRET}@127.0.0.1:{unused_port()}/repo?sig={SECRET}")
    with pytest.raises(RepositoryUnreachableError, match=r"127\.0\.0\.1") as caught:
        source.read("metadata/1.root.json", 10)
    assert SECRET not in caught.value.message


def test_a_refused_connection_is_told_in_the_words_of_the_system() -> None:
    with pytest.raises(RepositoryUnreachableError) as caught:
        source_of(f"http://127.0.0.1:{unused_port()}/").read("metadata/1.root.json", 100)
    assert caught.value.message.endswith("/metadata/1.root.json: [Errno 111] Connection refused")


@pytest.mark.parametrize("place", [f"http://node:{SECRET}/@h/", f"https://h:port/?sig={SECRET}", "http://"])
def test_what_is_not_a_url_is_a_usage_error_without_them(place: str) -> None:
    with pytest.raises(UsageError) as caught:
        source_of(place)
    assert SECRET not in caught.value.message


def test_what_is_not_a_destination_is_named_without_its_password() -> None:
    with pytest.raises(DestinationError, match="h/x") as caught:
        destination_of(f"ftp://node:{SECRET}@h/x")
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    ("place", "folder"),
    [
        ("file:///srv/a%20b", "/srv/a b"),
        ("FILE:///srv/os", "/srv/os"),
        ("file:/srv/os", "/srv/os"),
        ("file://localhost/srv/os", "/srv/os"),
        ("file:///srv/%C3%A4%23%3F", "/srv/ä#?"),
        ("file:///srv/%FF", "/srv/\udcff"),
        ("/srv/a%20b", "/srv/a%20b"),
        ("file", "file"),
    ],
)
def test_a_file_url_names_the_same_folder_as_source_and_as_destination(place: str, folder: str) -> None:
    source, destination = source_of(place), destination_of(place)
    assert isinstance(source, FolderSource)
    assert (str(source.folder), destination.name) == (folder, folder)


@pytest.mark.parametrize(
    "place", ["file://host/srv", "file:///srv/os#1", "file:///srv/os?x", "file:///srv/%00"]
)
def test_a_file_url_that_is_not_a_folder_of_this_machine_is_refused(place: str) -> None:
    for read in (source_of, destination_of):
        with pytest.raises(UsageError):
            read(place)
