"""Hosts reached without the proxy, in the forms in which users write them for other programs."""

from __future__ import annotations

import pytest

from updog.no_proxy import entries_of, goes_round


@pytest.mark.parametrize(
    "entry",
    [
        "::1",
        "[::1]",
        "::1/128",
        "[::1]/128",
        "[::1/128]",
        "::/0",
        "0:0:0:0:0:0:0:1",
        "::1%lo",
        "[::1]:8080",
        "*",
        "elsewhere.example, ::1",
    ],
)
def test_an_ipv6_host_is_listed_in_any_notation(entry: str) -> None:
    assert goes_round("http://[::1]:8080/x", entries_of((entry,)))


@pytest.mark.parametrize("entry", ["::2", "fd00::/8", "[::1]:81", "0.0.0.0/0", "localhost"])
def test_another_ipv6_host_is_not_listed(entry: str) -> None:
    assert not goes_round("http://[::1]:8080/x", entries_of((entry,)))


@pytest.mark.parametrize(
    "entry",
    ["os.internal", "internal", ".internal", "*.internal", "OS.Internal.", "os.internal:443", "*:443"],
)
def test_a_name_includes_the_hosts_below_it(entry: str) -> None:
    assert goes_round("https://os.internal/x", entries_of((entry,)))


@pytest.mark.parametrize(
    "entry", ["s.internal", "nternal", "os.internal:80", "os.internal.example", "a.os.internal"]
)
def test_a_name_does_not_include_others(entry: str) -> None:
    assert not goes_round("https://os.internal/x", entries_of((entry,)))


@pytest.mark.parametrize(
    "entry",
    ["192.0.2.7", "192.0.2.0/24", "192.0.2.9/24", "192.0.2.7:80", "::ffff:192.0.2.7", "::ffff:0:0/96"],
)
@pytest.mark.parametrize("host", ["192.0.2.7", "[::ffff:192.0.2.7]", "[::ffff:c000:207]"])
def test_an_ipv4_address_is_the_same_in_ipv6_form(entry: str, host: str) -> None:
    assert goes_round(f"http://{host}/x", entries_of((entry,)))


def test_a_zone_in_the_url_does_not_matter() -> None:
    assert goes_round("http://[fe80::1%25eth0]/x", entries_of(("fe80::/10",)))


@pytest.mark.parametrize(
    "entry",
    [
        "http://os.internal",
        "10.0.0.0/33",
        "::1/129",
        "[::1",
        "10.*",
        "o*.internal",
        "a b",
        "1.2.3",
        "a/8",
        "a:b",
    ],
)
def test_what_means_nothing_is_an_error_and_not_ignored(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        entries_of((entry,))
