"""PURE: what a proposed root changes, every difference of it, as sentences for whoever is to sign.

Rules:

* nothing is left out: a field that this module does not know is told by its name and both its values;
* holders are told by name and keyid, so that a new key of the same person is seen to be another one;
* what follows from a change, and is easily overlooked, is told as a warning beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from repo_tools.config import ROLES
from repo_tools.editor import SPEC_VERSION
from repo_tools.holders import FIELD, holder_of, names_in, short
from updog.update_metadata.times import spoken_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tuf.api.metadata import Role, Root

ONLINE = ROLES[1:]
LONG = timedelta(weeks=5 * 52)
"""A root that lasts longer than this is most likely a slip."""

_USUAL = {"_type": "root", "spec_version": SPEC_VERSION, "consistent_snapshot": True}
_TOLD_APART = frozenset({"version", "expires", "keys", "roles", FIELD})


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One difference between two roots.

    Attributes:
        code: its kind, for scripts. role: which it concerns, if one. text: in words.
    """

    code: str
    role: str = ""
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the change as ``--json`` prints it."""
        return {"code": self.code, "role": self.role or None, "text": self.text}


def differences(old: Root | None, new: Root) -> list[Difference]:
    """Return every difference from the old root to the new one; all of it for a first root."""
    found = [change for role in ROLES for change in _of_role(role, old, new)]
    found += _of_names(old, new)
    found.append(_of_expiry(old, new))
    return [*found, *_of_the_rest(old, new)]


def changed_roles(old: Root, new: Root) -> tuple[str, ...]:
    """Return the online roles whose keys or threshold change: their metadata must be signed anew."""
    return tuple(role for role in ONLINE if _rule(old, role) != _rule(new, role))


def warnings(old: Root | None, new: Root, now: datetime) -> list[str]:
    """Return what is easily overlooked in a proposed root."""
    return [*_careless_keys(new), *_careless_expiry(new, now), *_half_measures(old, new)]


def _careless_keys(new: Root) -> Iterator[str]:
    for keyid in new.roles["root"].keyids:
        others = [role for role in ONLINE if keyid in new.roles[role].keyids]
        if others:
            yield f"{holder_of(new, keyid)} signs for root and for {', '.join(others)}: keep root keys apart"
    if new.roles["root"].threshold == 1:
        yield "a single root key can change everything"
    if new.roles["root"].threshold == len(new.roles["root"].keyids):
        yield "every root key is needed: losing one means that no root can follow, ever"


def _careless_expiry(new: Root, now: datetime) -> Iterator[str]:
    if new.expires <= now:
        yield f"it has expired already, on {new.expires:%Y-%m-%d %H:%M} UTC"
    elif new.expires > now + LONG:
        yield f"it lasts {spoken_duration(new.expires - now)}"


def _half_measures(old: Root | None, new: Root) -> Iterator[str]:
    """Yield what a change of online keys leaves open (TUF specification §5.3.11)."""
    changed = changed_roles(old, new) if old else ()
    if "snapshot" in changed and "timestamp" not in changed:
        yield (
            "the snapshot key changes and the timestamp key does not: after a leak change both, so that "
            "nodes forget the versions a thief may have shown them"
        )


def _of_role(role: str, old: Root | None, new: Root) -> Iterator[Difference]:
    before = old.roles[role] if old else None
    after = new.roles[role]
    if old and before:
        for keyid in before.keyids:
            if keyid not in after.keyids:
                yield Difference(
                    code="key-removed", role=role, text=f"{role}: {holder_of(old, keyid)} is taken out"
                )
            elif old.keys[keyid] != new.keys[keyid]:
                text = f"{role}: the entry of {holder_of(new, keyid)} is another under the same keyid"
                yield Difference(code="key-altered", role=role, text=text)
    for keyid in after.keyids:
        if not before or keyid not in before.keyids:
            holder = holder_of(new, keyid)
            text = f"{role}: {holder}, {holder.key.scheme}, is put in"
            yield Difference(code="key-added", role=role, text=text)
    yield from _of_rule(role, before, after)


def _of_rule(role: str, before: Role | None, after: Role) -> Iterator[Difference]:
    is_now, was = _needed(after), _needed(before) if before else ""
    if is_now != was:
        text = f"{role}: {is_now} must sign{was and f', was {was}'}"
        yield Difference(code="threshold", role=role, text=text)
    fields = before.unrecognized_fields if before else {}
    if fields != after.unrecognized_fields:
        text = f"{role}: {_shown(after.unrecognized_fields)}, was {_shown(fields)}"
        yield Difference(code="field", role=role, text=text)


def _needed(rule: Role) -> str:
    return f"{rule.threshold} of {len(rule.keyids)}"


def _of_names(old: Root | None, new: Root) -> Iterator[Difference]:
    """Yield the keys that stay under another name, and names and keys that no role uses."""
    was, names = names_in(old) if old else {}, names_in(new)
    for keyid in sorted(set(was) & set(names)):
        if was[keyid] != names[keyid]:
            text = f"the key {short(keyid)} is called {names[keyid]}, was {was[keyid]}"
            yield Difference(code="name", text=text)
    used = {keyid for role in new.roles.values() for keyid in role.keyids}
    for keyid in sorted((set(names) | set(new.keys)) - used):
        yield Difference(code="key-unused", text=f"the key {short(keyid)} is listed and signs for no role")


def _of_expiry(old: Root | None, new: Root) -> Difference:
    was = f", was {old.expires:%Y-%m-%d %H:%M} UTC" if old else ""
    return Difference(code="expires", text=f"it expires on {new.expires:%Y-%m-%d %H:%M} UTC{was}")


def _of_the_rest(old: Root | None, new: Root) -> Iterator[Difference]:
    """Yield the fields that are told nowhere else; of a first root, those that no root need have."""
    before, after = old.to_dict() if old else _USUAL, new.to_dict()
    for name in sorted((set(before) | set(after)) - _TOLD_APART):
        if before.get(name) != after.get(name):
            text = f"{_shown(name)}: {_shown(after.get(name))}, was {_shown(before.get(name))}"
            yield Difference(code="field", text=text)


def _rule(root: Root, role: str) -> tuple[frozenset[str], int]:
    return frozenset(root.roles[role].keyids), root.roles[role].threshold


def _shown(value: object) -> str:
    """Return a value of a foreign file so that it cannot steer a terminal."""
    return json.dumps(value)
