"""PURE: every difference between a proposed root and the old one, as text for the holders who sign it.

Rules:

* nothing is left out: a field that this module does not know is reported with its name and both values;
* holders are reported by name and keyid, so that a new key of the same person is visible as a new key;
* a consequence of a change that is easily overlooked is reported as a warning.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Any

from repo_tools.config import ONLINE_ROLES, ROLES
from repo_tools.keys.holders import FIELD, holder_names, holder_of, short_keyid
from repo_tools.keys.signers import is_same_key
from repo_tools.repository.editor import SPEC_VERSION
from updog.update_metadata.times import readable_time_left

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tuf.api.metadata import Root

LONGEST_USUAL_VALIDITY = timedelta(weeks=5 * 52)
"""A root with a longer validity is probably a mistake."""

_USUAL = {"_type": "root", "spec_version": SPEC_VERSION, "consistent_snapshot": True}
_REPORTED_SEPARATELY = frozenset({"version", "expires", "keys", "roles", FIELD})


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One difference between two roots.

    Attributes:
        code: the kind of difference, for scripts. role: the role concerned, if one. text: description.
    """

    code: str
    role: str = ""
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the difference as ``--json`` prints it."""
        return {"code": self.code, "role": self.role or None, "text": self.text}


def differences(old: Root | None, new: Root) -> list[Difference]:
    """Return every difference between the old root and the new one; for a first root, all of its content."""
    found = [difference for role in ROLES for difference in _role_differences(role, old, new)]
    found += _name_differences(old, new)
    was = f", was {old.expires:%Y-%m-%d %H:%M} UTC" if old else ""
    text = f"it expires on {new.expires:%Y-%m-%d %H:%M} UTC{was}"
    return [*found, Difference(code="expires", text=text), *_field_differences(old, new)]


def changed_roles(old: Root, new: Root) -> tuple[str, ...]:
    """Return the online roles whose keys or threshold change: their metadata must be re-signed."""

    def rule(root: Root, role: str) -> tuple[frozenset[str], int]:
        return frozenset(root.roles[role].keyids), root.roles[role].threshold

    return tuple(role for role in ONLINE_ROLES if rule(old, role) != rule(new, role))


def warnings(old: Root | None, new: Root, now: datetime) -> list[str]:
    """Return what is easily overlooked in a proposed root."""
    found = []
    for keyid in new.roles["root"].keyids:
        others = [role for role in ONLINE_ROLES if keyid in new.roles[role].keyids]
        if others:
            names = ", ".join(others)
            found.append(
                f"{holder_of(new, keyid)} signs for root and for {names}: use separate keys for root"
            )
    if new.roles["root"].threshold == 1:
        found.append("a single root key can change everything")
    if new.roles["root"].threshold == len(new.roles["root"].keyids):
        found.append("every root key is required: if one is lost, no new root can ever be signed")
    if new.expires <= now:
        found.append(f"it has already expired, on {new.expires:%Y-%m-%d %H:%M} UTC")
    elif new.expires > now + LONGEST_USUAL_VALIDITY:
        found.append(f"it is valid for {readable_time_left(new.expires - now)}")
    found += _one_key_twice(new)
    return [*found, *(_after_a_leak(old, new) if old else ())]


def _one_key_twice(new: Root) -> Iterator[str]:
    """Yield the keys of a role that are one key under two keyids."""
    for role, rule in new.roles.items():
        for one, other in combinations(rule.keyids, 2):
            if is_same_key(new.keys[one], new.keys[other]):
                yield (
                    f"{role}: {holder_of(new, one)} and {holder_of(new, other)} are the same key under two "
                    "keyids: its holder alone makes two signatures"
                )


def _after_a_leak(old: Root, new: Root) -> Iterator[str]:
    """Yield what a change of online keys leaves to a thief of the old ones."""
    changed = changed_roles(old, new)
    for one, other in (("snapshot", "timestamp"), ("timestamp", "snapshot")):
        if one in changed and other not in changed:  # TUF specification §5.3.11
            yield (
                f"the {one} key changes and the {other} key does not: after a leak change both, so that "
                "nodes forget the versions that an attacker may have shown them"
            )
    for role in new.roles:
        for keyid in old.roles[role].keyids:
            if keyid in new.roles[role].keyids:
                continue
            left = [other for other in new.roles if keyid in new.roles[other].keyids]
            if left:
                yield (
                    f"{holder_of(old, keyid)} is removed from {role} and still signs for "
                    f"{' and '.join(left)}: after a leak remove it there as well"
                )


def _role_differences(role: str, old: Root | None, new: Root) -> Iterator[Difference]:
    before = old.roles[role] if old else None
    after = new.roles[role]
    if old and before:
        for keyid in before.keyids:
            if keyid not in after.keyids:
                yield Difference(
                    code="key-removed", role=role, text=f"{role}: {holder_of(old, keyid)} is removed"
                )
            elif old.keys[keyid] != new.keys[keyid]:
                text = f"{role}: the entry of {holder_of(new, keyid)} is changed under the same keyid"
                yield Difference(code="key-altered", role=role, text=text)
    for keyid in after.keyids:
        if not before or keyid not in before.keyids:
            holder = holder_of(new, keyid)
            text = f"{role}: {holder}, {holder.key.scheme}, is added"
            yield Difference(code="key-added", role=role, text=text)
    required = f"{after.threshold} of {len(after.keyids)}"
    was = f"{before.threshold} of {len(before.keyids)}" if before else ""
    if required != was:
        text = f"{role}: {required} must sign{was and f', was {was}'}"
        yield Difference(code="threshold", role=role, text=text)
    fields = before.unrecognized_fields if before else {}
    if fields != after.unrecognized_fields:
        text = f"{role}: {_escaped(after.unrecognized_fields)}, was {_escaped(fields)}"
        yield Difference(code="field", role=role, text=text)


def _name_differences(old: Root | None, new: Root) -> Iterator[Difference]:
    """Yield the keys whose holder has another name, and names and keys that no role uses."""
    was, names = holder_names(old) if old else {}, holder_names(new)
    for keyid in sorted(set(was) & set(names)):
        if was[keyid] != names[keyid]:
            text = f"the holder of the key {short_keyid(keyid)} is {names[keyid]}, was {was[keyid]}"
            yield Difference(code="name", text=text)
    used = {keyid for role in new.roles.values() for keyid in role.keyids}
    for keyid in sorted((set(names) | set(new.keys)) - used):
        yield Difference(
            code="key-unused", text=f"the key {short_keyid(keyid)} is listed but signs for no role"
        )


def _field_differences(old: Root | None, new: Root) -> Iterator[Difference]:
    """Yield the other fields that differ; for a first root, those that differ from a usual root's."""
    before, after = old.to_dict() if old else _USUAL, new.to_dict()
    for name in sorted((set(before) | set(after)) - _REPORTED_SEPARATELY):
        if before.get(name) != after.get(name):
            text = f"{_escaped(name)}: {_escaped(after.get(name))}, was {_escaped(before.get(name))}"
            yield Difference(code="field", text=text)


def _escaped(value: object) -> str:
    """Return a value of an untrusted file as text that cannot control a terminal."""
    return json.dumps(value)
