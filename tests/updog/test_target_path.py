"""A name and a hash from signed metadata become a path only if it stays below its folder."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updog.update_metadata.errors import FaultsError
from updog.update_metadata.target_path import signed_sha256, target_path

HASH = hashlib.sha256(b"content").hexdigest()

HOSTILE_HASHES = [
    "",
    "../../../etc/cron.d/x",
    "/etc/passwd",
    "..",
    HASH[:-1],
    HASH + "0",
    HASH.upper(),
    HASH[:-1] + "g",
    HASH[:-1] + "/",
    HASH + "\n",
    "\0" * 64,
    "\u0661" * 64,  # digits, but not hexadecimal ones
]
HOSTILE_NAMES = ["", "/", "/etc/passwd", "..", "a/../../b", "./a", "a//b", "a/", "a\0b", "a\nb", "a\x1b[2Jb"]


def test_the_hash_precedes_the_base_name() -> None:
    assert target_path("a.zst", HASH) == f"{HASH}.a.zst"
    assert target_path("dev/images/a..b", HASH) == f"dev/images/{HASH}.a..b"
    sha512 = hashlib.sha512(b"content").hexdigest()
    assert target_path("a", sha512) == f"{sha512}.a"


@pytest.mark.parametrize("sha256", HOSTILE_HASHES, ids=range(len(HOSTILE_HASHES)))
def test_only_64_lower_case_hexadecimal_digits_are_a_sha256(sha256: str) -> None:
    with pytest.raises(FaultsError, match="64 lower-case hexadecimal digits"):
        signed_sha256("a", {"sha256": sha256})


def test_a_target_without_a_sha256_is_named() -> None:
    with pytest.raises(FaultsError, match='"a" is signed without a SHA-256'):
        signed_sha256("a", {"sha512": "0" * 128})


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_a_name_that_leaves_the_folder_or_cannot_be_printed_is_refused(name: str) -> None:
    with pytest.raises(FaultsError, match="not a valid path") as caught:
        target_path(name, HASH)
    assert str(caught.value).isprintable()


@given(name=st.text(), digest=st.one_of(st.text(), st.just(HASH)))
def test_whatever_is_signed_the_path_stays_below_its_folder(name: str, digest: str) -> None:
    try:
        path = target_path(name, digest)
    except FaultsError:
        return
    assert not path.startswith("/")
    assert re.fullmatch(r"(?:[^/]+/)*[^/]+", path)
    assert not {".", ".."} & set(path.split("/"))
