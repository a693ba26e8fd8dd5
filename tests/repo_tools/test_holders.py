"""Names of key holders: what can be one, where it comes from, and whose key it means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root

from repo_tools.errors import ProposalError, TamperedProposalError
from repo_tools.keys.holders import (
    FIELD,
    Holder,
    find_holder,
    holder_names,
    is_holder_name,
    named_key,
    set_holder_name,
    short_keyid,
)


@pytest.mark.parametrize("name", ["a", "x" * 64, "anna maria", "Žofie"])
def test_a_short_printable_text_is_a_name(name: str) -> None:
    assert is_holder_name(name)


@pytest.mark.parametrize("name", ["", "x" * 65, " anna", "anna ", "-y", "a\nb", "\x1b[2J", None, 1, ["anna"]])
def test_what_could_control_a_terminal_or_look_like_an_option_is_no_name(name: object) -> None:
    assert not is_holder_name(name)


@pytest.mark.parametrize(
    ("text", "name", "uri"),
    [
        ("anna=file2:keys/key-1.pem", "anna", "file2:keys/key-1.pem"),
        ("anna=hsm:2?label=token", "anna", "hsm:2?label=token"),
        ("file2:keys/anna.pem", "anna", "file2:keys/anna.pem"),
        ("anna.pub.pem", "anna", "anna.pub.pem"),
        ("file2:keys/anna.pem,other.pem", "anna", "file2:keys/anna.pem,other.pem"),
        ("hsm:2?label=anna", "anna", "hsm:2?label=anna"),
        ("hsm:?x=y&label=anna&z=1", "anna", "hsm:?x=y&label=anna&z=1"),
        ("envvar:", "", "envvar:"),
    ],
)
def test_a_key_without_a_name_is_called_by_its_file_or_label(text: str, name: str, uri: str) -> None:
    assert named_key(text) == (name, uri)


def _holder(name: str, keyid: str) -> Holder:
    made = SSlibKey.from_crypto(Ed25519PrivateKey.generate().public_key())
    return Holder(name=name, key=SSlibKey(keyid, made.keytype, made.scheme, made.keyval))


def _root(*held: Holder) -> Root:
    root = Root(expires=datetime(2027, 1, 1, tzinfo=UTC))
    for holder in held:
        root.add_key(holder.key, "root")
        if holder.name:
            set_holder_name(root, holder)
    return root


def test_a_holder_is_found_by_the_name_or_else_by_the_start_of_the_keyid() -> None:
    """A name that looks like the start of another's keyid is still the name."""
    first, second, nameless = (
        _holder("abc", "1" * 64),
        _holder("boris", "abc" + "2" * 61),
        _holder("", "3" * 64),
    )
    root = _root(first, second, nameless)
    assert find_holder(root, "root", "abc") == first
    assert find_holder(root, "root", "abc2") == second
    assert find_holder(root, "root", "333") == nameless


@pytest.mark.parametrize(("name", "found"), [("anna", "2 keys"), ("1", "2 keys"), ("clara", "no keys")])
def test_a_name_of_several_keys_or_of_none_changes_nothing(name: str, found: str) -> None:
    root = _root(_holder("anna", "1" * 64), _holder("anna", "12" + "3" * 62))
    with pytest.raises(ProposalError, match=f"'{name}' matches {found} of root") as caught:
        find_holder(root, "root", name)
    assert "anna (key 111111111111), anna (key 123333333333)" in caught.value.next_step


def test_a_name_that_is_none_is_not_written_into_a_root() -> None:
    root = _root()
    with pytest.raises(ProposalError, match="up to 64 printable characters"):
        set_holder_name(root, _holder("x" * 65, "1" * 64))
    assert FIELD not in root.unrecognized_fields


@pytest.mark.parametrize("field", [{"1" * 64: "\x1b[2J"}, {"1" * 64: "anna", "2" * 64: 1}, ["anna"], "anna"])
def test_names_that_others_wrote_are_a_table_of_names_or_refused(field: object) -> None:
    root = _root()
    root.unrecognized_fields[FIELD] = field
    with pytest.raises(TamperedProposalError, match="is not a table of names"):
        holder_names(root)


def test_a_keyid_from_any_file_cannot_control_a_terminal() -> None:
    assert short_keyid("0123456789abcdef") == "0123456789ab"
    assert short_keyid("\x1b[2J" + "a" * 60) == "'\\x1b[2Jaaaaaaaa'"
