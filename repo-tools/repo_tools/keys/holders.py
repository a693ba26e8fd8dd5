"""PURE: who holds a key: the names of the key holders in a root, and of a channel's key holders.

They are in the signed root, or in the signed top-level targets that delegate to a channel, under
``x-updog-holders``, so that nobody can rename a key in transit. They are not in the key itself, because tough
computes the keyid from all fields of a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.errors import ProposalError, TamperedProposalError

if TYPE_CHECKING:
    from tuf.api.metadata import Key, Root, Targets

FIELD = "x-updog-holders"
MAX_NAME = 64
_SHORT_KEYID = 12
_NAMED = re.compile(r"([^=:/?,]+)=(.+)")
_LABEL = re.compile(r"[?&]label=([^&]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A key and the name of its holder; ``name`` is empty if the root does not say."""

    name: str
    key: Key

    def __str__(self) -> str:
        """Return the holder's name and the start of the keyid, since a holder can have several keys."""
        key = f"key {short_keyid(self.key.keyid)}"
        return f"{self.name} ({key})" if self.name else key

    def to_json(self) -> dict[str, Any]:
        """Return the holder as ``--json`` prints it."""
        return {"name": self.name or None, "keyid": self.key.keyid}


def short_keyid(keyid: object) -> str:
    """Return the start of a keyid, escaped if it could control a terminal: it may come from any file."""
    text = str(keyid)[:_SHORT_KEYID]
    return text if text.isprintable() else repr(text)


def holder_of(root: Root, keyid: str) -> Holder:
    """Return the holder of a key of this root."""
    return Holder(name=holder_names(root).get(keyid, ""), key=root.keys[keyid])


def holders(root: Root, role: str) -> list[Holder]:
    """Return the holders of a role's keys, in the root's order."""
    return [holder_of(root, keyid) for keyid in root.roles[role].keyids]


def holder_names(signed: Root | Targets) -> dict[str, str]:
    """Return keyid → name of its holder. Raises TamperedProposalError if the field is anything else."""
    names = signed.unrecognized_fields.get(FIELD, {})
    if not isinstance(names, dict) or not all(is_holder_name(name) for name in names.values()):
        raise TamperedProposalError(f"{FIELD} of {signed.type} {signed.version} is not a table of names")
    return names


def is_holder_name(name: object) -> bool:
    """Return whether this can be a holder's name: short, and printable: it cannot control a terminal."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        return False
    return name.isprintable() and name == name.strip() and not name.startswith("-")


def named_key(text: str) -> tuple[str, str]:
    """Return the holder's name and the rest of ``[NAME=]URI[,PUBLIC.pem]`` or ``[NAME=]FILE.pem``.

    Without a name it is that of the file or the token's label; "" if there is none that can be a name.
    """
    match = _NAMED.fullmatch(text)
    if match:
        return match[1], match[2]
    uri = text.partition(",")[0]
    label = _LABEL.search(uri)
    word = label[1] if label else uri.rpartition(":")[2].rpartition("/")[2]
    name = word.removesuffix(".pem").removesuffix(".pub")
    return (name if is_holder_name(name) else ""), text


def set_holder_name(root: Root, holder: Holder) -> None:
    """Write the name of a key's holder into a root. Raises ProposalError."""
    if not is_holder_name(holder.name):
        raise ProposalError(f"{holder.name!r} is not a valid name: use up to {MAX_NAME} printable characters")
    root.unrecognized_fields.setdefault(FIELD, {})[holder.key.keyid] = holder.name


def find_holder(root: Root, role: str, name_or_keyid: str) -> Holder:
    """Return the only key of a role with this holder's name or start of the keyid. Raises ProposalError."""
    members = holders(root, role)
    matches = [holder for holder in members if holder.name == name_or_keyid]
    matches = matches or [holder for holder in members if holder.key.keyid.startswith(name_or_keyid)]
    if len(matches) == 1:
        return matches[0]
    raise ProposalError(
        f"{name_or_keyid!r} matches {len(matches) or 'no'} keys of {role}",
        next_step=f"Name one of: {', '.join(map(str, members))}.",
    )
