"""A proposal comes from another holder: every fault in the file is reported as a clear error."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from repo_tools.ceremony import root_draft
from repo_tools.ceremony.root_proposal import Proposal
from repo_tools.errors import SigningKeyError
from repo_tools.keys.holders import Holder
from repo_tools.render.ceremony import proposal_document, proposal_text
from signpost.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tuf.api.metadata import Metadata

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
UNKNOWN_KIND = """-----BEGIN PUBLIC KEY-----
MBQwCwYJYIZIAWUDBANjAwUAYWJjZA==
-----END PUBLIC KEY-----
"""
"""A public key whose algorithm no library knows: the object identifier is not in use."""

WILD: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "", "\x1b[2J", [], {}, ["x"], {"x": 1})


def _private(number: int) -> Ed25519PrivateKey:
    """Return a key that is the same each time, so that the tests have stable names."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def _proposal() -> Proposal:
    """Return a proposal of root 2, signed by one of two."""
    names = ("anna", "boris", "online")
    signers = {name: CryptoSigner(_private(number)) for number, name in enumerate(names)}
    held = {name: Holder(name=name, key=signer.public_key) for name, signer in signers.items()}
    members = {role: [held["online"]] for role in ("targets", "snapshot", "timestamp")}
    members["root"] = [held["anna"], held["boris"]]
    first = root_draft.first(members, {"root": 2}, NOW + timedelta(weeks=52))
    for name in ("anna", "boris"):
        first.new.sign(signers[name], append=True)
    base: Metadata[Any] = first.new
    second = root_draft.following(base, NOW + timedelta(weeks=60))
    second.new.sign(signers["anna"], append=True)
    return second


DOCUMENT: Any = json.loads(_proposal().to_bytes())


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON document, below the top."""
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield (*path, key)
        yield from _places(member, (*path, key))


def _spoilt(path: tuple[Any, ...], wild: Any) -> bytes:
    """Return the file with another value at a path; without the value where ``wild`` is ``...``."""
    document = deepcopy(DOCUMENT)
    place = document
    for key in path[:-1]:
        place = place[key]
    if wild is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = wild
    return json.dumps(document).encode()


def test_the_file_is_read_as_it_was_written() -> None:
    data = json.dumps(DOCUMENT).encode()
    proposal = Proposal.from_bytes(data)
    assert json.loads(proposal.to_bytes()) == DOCUMENT
    assert [status.missing for status in proposal.signature_status()] == [1, 1]


@pytest.mark.parametrize(
    "path", list(_places(DOCUMENT)), ids=lambda path: "/".join(str(key)[:12] for key in path)
)
def test_any_value_may_be_wild(path: tuple[Any, ...]) -> None:
    refused = 0
    for wild in (*WILD, ...):
        data = _spoilt(path, wild)
        try:
            proposal = Proposal.from_bytes(data)
        except ToolError:
            refused += 1
            continue
        text = proposal_text(proposal, "", NOW)
        assert all(line.isprintable() for line in text.splitlines())
        json.dumps(proposal_document(proposal, "", NOW))
    # Nothing else is accepted for what is signed; the rest is a base or a signature that was removed whole.
    assert refused >= (len(WILD) - 3)


def test_a_new_key_that_only_other_tools_can_use_is_refused() -> None:
    """TUF metadata may list OpenPGP keys, and others that the library cannot read; no node verifies them."""
    keys: list[dict[str, Any]] = [
        {"keytype": "eddsa", "scheme": "pgp+eddsa-ed25519", "keyval": {"public": {"q": "ab" * 32}}},
        {"keytype": "rsa", "scheme": "pgp+rsa-pkcsv1.5", "keyval": {"public": {"e": "03", "n": "ab"}}},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "no digits"}},
        {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": UNKNOWN_KIND}},
    ]
    for key in keys:
        document = deepcopy(DOCUMENT)
        document["root"]["signed"]["keys"]["ab" * 32] = key
        with pytest.raises(SigningKeyError, match=r"not verified by every client|cannot be read"):
            Proposal.from_bytes(json.dumps(document).encode())
