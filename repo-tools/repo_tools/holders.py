"""PURE: whose a key is: the names that a root carries for its keys.

They are in the signed root itself, under ``x-updog-holders``, so that nobody can rename a key on the way.
They are not in the key, because tough computes the keyid over all of a key's fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repo_tools.errors import ProposalError, TamperedProposalError

if TYPE_CHECKING:
    from tuf.api.metadata import Key, Root

FIELD = "x-updog-holders"
MAX_NAME = 64
_SHORT = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """A key and whom it belongs to; ``name`` is empty where the root does not say."""

    name: str
    key: Key

    def __str__(self) -> str:
        """Return the holder as people read him, told from another key of his by its keyid."""
        key = f"key {short(self.key.keyid)}"
        return f"{self.name} ({key})" if self.name else key

    def to_json(self) -> dict[str, Any]:
        """Return the holder as ``--json`` prints him."""
        return {"name": self.name or None, "keyid": self.key.keyid}


def short(keyid: object) -> str:
    """Return the start of a keyid, of a foreign file too, so that it cannot steer a terminal."""
    text = str(keyid)[:_SHORT]
    return text if text.isprintable() else repr(text)


def holder_of(root: Root, keyid: str) -> Holder:
    """Return whom a key of this root belongs to."""
    return Holder(name=names_in(root).get(keyid, ""), key=root.keys[keyid])


def holders(root: Root, role: str) -> list[Holder]:
    """Return the holders of a role's keys, in the root's order."""
    return [holder_of(root, keyid) for keyid in root.roles[role].keyids]


def names_in(root: Root) -> dict[str, str]:
    """Return keyid → name of its holder. Raises TamperedProposalError on anything else under that field."""
    names = root.unrecognized_fields.get(FIELD, {})
    if not isinstance(names, dict) or not all(is_name(name) for name in names.values()):
        raise TamperedProposalError(f"{FIELD} of root {root.version} is not a table of names")
    return names


def is_name(name: object) -> bool:
    """Return whether this can name a holder: short, and printable, so that it cannot steer a terminal."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        return False
    return name.isprintable() and name == name.strip() and not name.startswith("-")


def set_name(root: Root, holder: Holder) -> None:
    """Write whose a key is into a root. Raises ProposalError."""
    if not is_name(holder.name):
        raise ProposalError(f"{holder.name!r} is no name: up to {MAX_NAME} printable characters")
    root.unrecognized_fields.setdefault(FIELD, {})[holder.key.keyid] = holder.name


def found(root: Root, role: str, word: str) -> Holder:
    """Return the one key of a role with this name or start of a keyid. Raises ProposalError."""
    members = holders(root, role)
    fit = [holder for holder in members if holder.name == word]
    fit = fit or [holder for holder in members if holder.key.keyid.startswith(word)]
    if len(fit) == 1:
        return fit[0]
    raise ProposalError(
        f"{word!r} names {len(fit) or 'no'} keys of {role}",
        next_step=f"Name one of: {', '.join(map(str, members))}.",
    )
