"""Versions: the grammar and the order of Semantic Versioning 2.0.0."""

from __future__ import annotations

from itertools import pairwise

import pytest

from signpost.errors import ExitStatus
from updog.update_metadata.errors import VersionError
from updog.update_metadata.version import MAX_VERSION_TEXT, Version

VALID = [
    "0.0.0",
    "1.26.1",
    "10.20.30",
    "1.0.0-alpha",
    "1.0.0-0",
    "1.0.0-alpha.0.valid-x-y.-",
    "1.0.0--",
    "1.0.0-0A.is.legal",
    "1.0.0+20130313144700",
    "1.0.0+001.0",
    "1.0.0-rc.1+build-7.sha",
]

INVALID = {
    "empty": "",
    "one-number": "1",
    "two-numbers": "1.2",
    "four-numbers": "1.2.3.4",
    "leading-zero-major": "01.2.3",
    "leading-zero-patch": "1.2.03",
    "leading-zero-prerelease": "1.2.3-01",
    "empty-prerelease": "1.2.3-",
    "empty-identifier": "1.2.3-a..b",
    "empty-build": "1.2.3+",
    "two-builds": "1.2.3+a+b",
    "leading-v": "v1.2.3",
    "space-before": " 1.2.3",
    "newline-after": "1.2.3\n",
    "negative": "-1.2.3",
    "plus-sign": "+1.2.3",
    "underscore": "1_0.2.3",
    "other-digits": "1.2.٣",
    "letters": "latest",
    "range": "1.0.*",
}

RISING = [
    "1.0.0-0",
    "1.0.0-2",
    "1.0.0-11",
    "1.0.0-11.a",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.1",
    "1.2.0",
    "1.10.0",
    "2.0.0-alpha",
    "2.0.0",
    "10.0.0",
]


@pytest.mark.parametrize("text", VALID)
def test_text_of_a_parsed_version_is_the_text(text: str) -> None:
    assert str(Version.parse(text)) == text


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_what_only_looks_like_a_version_is_refused_by_name(text: str) -> None:
    with pytest.raises(VersionError, match="is not a semantic version") as caught:
        Version.parse(text)
    assert repr(text) in caught.value.message
    assert caught.value.status is ExitStatus.USAGE


def test_an_endless_version_is_refused_and_shown_cut() -> None:
    with pytest.raises(VersionError) as caught:
        Version.parse("1.0." + "1" * 10_000)
    assert len(caught.value.message) < MAX_VERSION_TEXT + 50


@pytest.mark.parametrize(("lower", "higher"), list(pairwise(RISING)))
def test_versions_are_ordered_by_precedence(lower: str, higher: str) -> None:
    assert Version.parse(lower) < Version.parse(higher)
    assert Version.parse(higher) > Version.parse(lower)
    assert Version.parse(lower) != Version.parse(higher)


def test_build_metadata_is_kept_and_not_compared() -> None:
    one, other = Version.parse("1.0.0+a"), Version.parse("1.0.0+b")
    assert one == other
    assert hash(one) == hash(other)
    assert one <= other
    assert one >= other
    assert (str(one), str(other)) == ("1.0.0+a", "1.0.0+b")


@pytest.mark.parametrize("text", ["v1.2.3", "1.2.3"])
def test_an_operator_may_type_one_leading_v(text: str) -> None:
    assert Version.parse_friendly(text) == Version(major=1, minor=2, patch=3)


@pytest.mark.parametrize("text", ["vv1.2.3", "V1.2.3", "v 1.2.3", "v"])
def test_an_operator_may_type_nothing_else_before_it(text: str) -> None:
    with pytest.raises(VersionError):
        Version.parse_friendly(text)


def test_a_version_is_compared_with_versions_only() -> None:
    with pytest.raises(TypeError):
        _ = Version.parse("1.0.0") < "2.0.0"
