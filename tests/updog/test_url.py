"""URLs that may contain a secret: what prints, and what is sent."""

from __future__ import annotations

import pytest

from updog.url import WEB, Url, without_secrets


def test_a_url_prints_its_address_alone() -> None:
    url = Url.parse("https://node:p%40ss@os.example:8443/repo?sv=1&sig=abc", WEB)
    assert str(url) == "https://os.example:8443/repo"
    assert repr(url) == "Url(address='https://os.example:8443/repo')"
    assert url.credentials() == (b"node", b"p@ss")
    assert url.with_login() == "https://node:p%40ss@os.example:8443/repo"


def test_a_path_below_a_base_goes_before_its_query() -> None:
    base = Url.parse("https://os.example/metadata?sv=1&sig=a%2Bb", WEB).folder()
    assert str(base) == "https://os.example/metadata/"
    assert base.with_query(f"{base}1.root.json") == "https://os.example/metadata/1.root.json?sv=1&sig=a%2Bb"


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("a/1.1.0+build.5.zst", "a/1.1.0%2Bbuild.5.zst"),
        ("100%.zst", "100%25.zst"),
        ("a?b#c.zst", "a%3Fb%23c.zst"),
        ("two words.zst", "two%20words.zst"),
        ("ä.zst", "%C3%A4.zst"),
        ("os-demo_1.0~rc.1-root.erofs.zst", "os-demo_1.0~rc.1-root.erofs.zst"),
    ],
)
def test_a_file_s_name_is_encoded_below_a_base(path: str, encoded: str) -> None:
    assert Url.parse("https://os.example/t", WEB).below(path) == f"https://os.example/t/{encoded}"


@pytest.mark.parametrize(
    ("base", "address"),
    [
        ("https://os.example/m/", "https://os.example/m/1.root.json"),
        ("https://os.example/outcome", "https://os.example/outcome"),
    ],
)
def test_a_folder_covers_what_is_below_it_and_a_file_itself(base: str, address: str) -> None:
    assert Url.parse(base, WEB).covers(address)


@pytest.mark.parametrize(
    ("base", "address"),
    [
        ("https://os.example/m/", "https://os.example/m"),
        ("https://os.example/m/", "http://os.example/m/1.root.json"),
        ("https://os.example/m/", "https://os.example.evil/m/1.root.json"),
        ("https://os.example/outcome", "https://os.example/outcomes"),
    ],
)
def test_another_place_is_not_covered(base: str, address: str) -> None:
    assert not Url.parse(base, WEB).covers(address)


@pytest.mark.parametrize(
    "text",
    [
        "os.example/",
        "ftp://os.example/",
        "http://",
        "http:///x",
        "http://os.example:port/",
        "http://os.example:70000/",
        "http://os.example:0/",
        "http://os.example/#here",
        "http://os.example/a b",
        "http://os.exa\nmple/",
        "http://[::1/",
        "file://host/x",
        "file:///x?y",
    ],
)
def test_what_no_url_looks_like_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Url.parse(text, (*WEB, "file"))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot get http://node:S3cret@h:1/x: refused", "cannot get http://h:1/x: refused"),
        (
            "Max retries exceeded with url: /x?sig=S3cret (Caused by …)",
            "Max retries exceeded with url: /x?… (Caused by …)",
        ),
        ('"GET /x?sig=S3cret HTTP/1.1" 404', '"GET /x?… HTTP/1.1" 404'),
        ("http://n:S3cret@h http://n:S3cret@h", "http://h http://h"),
        ("node:S3cret@h:1 is malformed", "h:1 is malformed"),
        ("http://node:S3c@ret/S3cret@h/x", "http://h/x"),
        ("is it down? perhaps", "is it down? perhaps"),
        ("[Errno 111] Connection refused", "[Errno 111] Connection refused"),
    ],
)
def test_texts_of_others_lose_their_secrets_and_nothing_else(text: str, left: str) -> None:
    assert without_secrets(text) == left
