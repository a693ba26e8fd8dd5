"""manifest.json: which updates a repository offers, to whom, when, and how to migrate between them.

Rules:
* The format is Bottlerocket's. What this project adds are members its readers ignore: ``contents`` (size
  and SHA-256 of each raw image), ``packs`` (how to fetch parts of them), ``floor`` and ``hold`` of an update.
* A held update is written under ``held`` instead of ``updates``: a reader that knows nothing of holds does
  not see it at all, whatever its seed and whether or not it ignores waves. Here it is one of the updates,
  after those that are not held.
* Members nobody here knows are ignored, kept in ``extra`` of their object and written back.
* A faulty field is reported by its path, all faults of a file at once; no part of a faulty file is used.
  What compares fields with each other (floor below version, no entry twice) is asked of good fields only.
* One entry a variant, architecture and version. All entries of a variant and architecture get the same
  ``max_version`` when one of them is added, those of others never.
* Values do not change: every ``with…`` returns another manifest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from updog.update_metadata import fields
from updog.update_metadata.by_role import by_role_from_json, by_role_to_json
from updog.update_metadata.content import Content
from updog.update_metadata.errors import (
    DuplicateUpdateError,
    Fault,
    FaultsError,
    ManifestError,
    UnknownUpdateError,
)
from updog.update_metadata.migrations import Migrations, migrations_from_json, migrations_to_json
from updog.update_metadata.packs import Packs, packs_from_json, packs_to_json
from updog.update_metadata.times import format_time
from updog.update_metadata.waves import Waves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from updog.update_metadata.version import Version

MAX_MANIFEST_BYTES = 8 * 1024 * 1024
"""Size of a manifest. Every node reads all of it into memory; the largest public one is well below 1 MiB."""

MAX_UPDATES = 4096
"""Updates of a manifest: at some 1.5 KiB an entry, what the size above holds."""

MAX_IMAGE_BYTES = 2**53 - 1
"""Size of a raw image: the largest whole number that every JSON reader keeps exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """TUF target names of the three images of an update: kernel and boot files, root, dm-verity hashes."""

    boot: str
    root: str
    hash: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The unpacked contents of the three images of an update."""

    boot: Content
    root: Content
    hash: Content
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """That an update is held back from the nodes that do not run it.

    Attributes:
        since: when its clock was stopped. reason: why, one printable line; empty where none was given.
    """

    since: datetime
    reason: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """One entry of ``updates``.

    Attributes:
        variant: flavour of the operating system. arch: machine architecture.
        version: what a node runs afterwards.
        max_version: above it, versions of this variant and architecture are withdrawn.
        waves: when it opens for whom.
        images: where to get it. contents: what it then is; None from an upstream publisher.
        packs: how to fetch only parts of the images; None where they come whole.
        floor: a node below this version must pass through it, or through one above it, first.
        hold: since when, and why, it is held back from nodes that do not run it; None if it is not.
        extra: members of a later writer.
    """

    variant: str
    arch: str
    version: Version
    max_version: Version
    waves: Waves
    images: Images
    contents: Contents | None = None
    packs: Packs | None = None
    floor: Version | None = None
    hold: Hold | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.version} for {self.variant} on {self.arch}"

    @property
    def key(self) -> tuple[str, str, Version]:
        """What names an update: variant, architecture and version."""
        return (self.variant, self.arch, self.version)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The whole of manifest.json."""

    updates: tuple[Update, ...] = ()
    migrations: Migrations = field(default_factory=dict, hash=False)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def empty(cls) -> Manifest:
        """Return the manifest of a new repository."""
        return cls()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Return the manifest written as ``data``. Raises ManifestError with every fault."""
        try:
            return _manifest(fields.decoded(data, most=MAX_MANIFEST_BYTES))
        except FaultsError as error:
            raise ManifestError(error.faults) from error

    def to_json(self) -> bytes:
        """Return the manifest as indented JSON with a final newline; the inverse of :meth:`from_json`."""
        held = [update_to_json(update) for update in self.updates if update.hold]
        document: dict[str, Any] = {
            "updates": [update_to_json(update) for update in self.updates if not update.hold],
            **({"held": held} if held else {}),
            "migrations": migrations_to_json(self.migrations),
        }
        return (json.dumps(document | dict(self.extra), indent=2, allow_nan=False) + "\n").encode()

    def find(self, variant: str, arch: str, version: Version) -> Update | None:
        """Return the entry of this variant, architecture and version, or None."""
        key = (variant, arch, version)
        return next((update for update in self.updates if update.key == key), None)

    def updates_of(self, variant: str, arch: str) -> tuple[Update, ...]:
        """Return the entries of this variant and architecture, newest first."""
        chosen = (update for update in self.updates if (update.variant, update.arch) == (variant, arch))
        return tuple(sorted(chosen, key=lambda update: update.version, reverse=True))

    def with_update(self, update: Update, *, max_version: Version | None = None) -> Manifest:
        """Return the manifest with one more update, the last of those not held.

        ``max_version``, or else the highest of the new version and the ``max_version`` in force, is set on
        every update of its variant and architecture, the new one included. One below the new version
        publishes it withdrawn.

        Raises:
            DuplicateUpdateError: its variant, architecture and version are in the manifest.
            ManifestError: its waves do not rise.
        """
        if self.find(*update.key):
            raise DuplicateUpdateError([Fault(path="updates", problem=f"{update} is there already")])
        _require_order(update)
        in_force = (other.max_version for other in self.updates_of(update.variant, update.arch))
        highest = max_version or max([update.version, *in_force])
        more = replace(self, updates=_ordered((*self.updates, update)))
        return more.with_max_version(update.variant, update.arch, highest)

    def with_max_version(self, variant: str, arch: str, version: Version) -> Manifest:
        """Return the manifest with this ``max_version`` on every update of the variant and architecture.

        Raises:
            UnknownUpdateError: there is none.
        """
        if not self.updates_of(variant, arch):
            problem = f"nothing is published for {variant} on {arch}"
            raise UnknownUpdateError([Fault(path="updates", problem=problem)])
        return self._mapped(
            lambda update: (
                replace(update, max_version=version)
                if (update.variant, update.arch) == (variant, arch)
                else update
            )
        )

    def with_waves(self, variant: str, arch: str, version: Version, waves: Waves) -> Manifest:
        """Return the manifest with other waves for one update.

        Raises:
            UnknownUpdateError: it is not there. ManifestError: the waves do not rise.
        """
        return self.with_changed(replace(self._known(variant, arch, version), waves=waves))

    def with_hold(self, variant: str, arch: str, version: Version, hold: Hold | None) -> Manifest:
        """Return the manifest with one update held, or released. Raises UnknownUpdateError."""
        return self.with_changed(replace(self._known(variant, arch, version), hold=hold))

    def with_changed(self, update: Update) -> Manifest:
        """Return the manifest with ``update`` in place of the entry of the same key.

        Raises:
            UnknownUpdateError: there is none. ManifestError: its waves do not rise.
        """
        self._known(*update.key)
        _require_order(update)
        return self._mapped(lambda other: update if other.key == update.key else other)

    def without_update(self, variant: str, arch: str, version: Version) -> Manifest:
        """Return the manifest less one update; ``max_version`` stays. Raises UnknownUpdateError."""
        gone = self._known(variant, arch, version)
        return replace(self, updates=tuple(update for update in self.updates if update.key != gone.key))

    def _known(self, variant: str, arch: str, version: Version) -> Update:
        update = self.find(variant, arch, version)
        if update is None:
            problem = f"{version} for {variant} on {arch} is not there"
            raise UnknownUpdateError([Fault(path="updates", problem=problem)])
        return update

    def _mapped(self, change: Callable[[Update], Update]) -> Manifest:
        return replace(self, updates=_ordered(map(change, self.updates)))


def _ordered(updates: Iterable[Update]) -> tuple[Update, ...]:
    """Return updates in the order they are written: those that are held last."""
    return tuple(sorted(updates, key=lambda update: update.hold is not None))


def _require_order(update: Update) -> None:
    faults = update.waves.disorder()
    if faults:
        raise ManifestError(fault.under(f"{update}: waves") for fault in faults)


def _manifest(document: object) -> Manifest:
    members = fields.Fields(document)
    open_to_some = members.take("updates", _updates)
    held = members.maybe("held", _held_updates) or ()
    migrations = members.take("migrations", migrations_from_json)
    members.done()
    _refuse_repeats({"updates": open_to_some, "held": held})
    return Manifest(updates=_ordered((*open_to_some, *held)), migrations=migrations, extra=members.rest())


def _updates(value: object) -> tuple[Update, ...]:
    return fields.array(value, _update, most=MAX_UPDATES)


def _held_updates(value: object) -> tuple[Update, ...]:
    updates = _updates(value)
    faults = [
        Fault(path=f"[{index}].hold", problem="missing")
        for index, update in enumerate(updates)
        if update.hold is None
    ]
    if faults:
        raise FaultsError(faults)
    return updates


def _refuse_repeats(lists: Mapping[str, tuple[Update, ...]]) -> None:
    first: dict[tuple[str, str, Version], str] = {}
    faults = [
        Fault(path=place, problem=f"{update} is there already, as {first[update.key]}")
        for name, updates in lists.items()
        for index, update in enumerate(updates)
        if first.setdefault(update.key, place := f"{name}[{index}]") != place
    ]
    if faults:
        raise FaultsError(faults)


def _update(value: object) -> Update:
    members = fields.Fields(value)
    update = Update(
        variant=members.take("variant", fields.text),
        arch=members.take("arch", fields.text),
        version=members.take("version", fields.version),
        max_version=members.take("max_version", fields.version),
        waves=members.take("waves", Waves.from_json),
        images=members.take("images", lambda three: by_role_from_json(three, Images, fields.text)),
        contents=members.maybe("contents", lambda three: by_role_from_json(three, Contents, _content)),
        packs=members.maybe("packs", packs_from_json),
        floor=members.maybe("floor", fields.version),
        hold=members.maybe("hold", _hold),
        extra=members.rest(),
    )
    members.done()
    if update.floor is not None and update.floor >= update.version:
        problem = f"{update.floor} is not below {update.version}: no node could ever take the update"
        raise FaultsError([Fault(path="floor", problem=problem)])
    return update


def _hold(value: object) -> Hold:
    """Read ``{"since": TIME, "reason": TEXT}``, or the time alone."""
    if isinstance(value, str):
        return Hold(since=fields.time(value))
    members = fields.Fields(value)
    hold = Hold(
        since=members.take("since", fields.time),
        reason=members.maybe("reason", fields.text) or "",
        extra=members.rest(),
    )
    members.done()
    return hold


def _content(value: object) -> Content:
    members = fields.Fields(value)
    content = Content(
        size=members.take("size", _image_size),
        sha256=members.take("sha256", fields.sha256),
        extra=members.rest(),
    )
    members.done()
    return content


def _image_size(value: object) -> int:
    size = fields.whole_number(value)
    if not 0 < size <= MAX_IMAGE_BYTES:
        raise fields.wrong(f"{size} bytes; an image has 1 to {MAX_IMAGE_BYTES}")
    return size


def update_to_json(update: Update) -> dict[str, Any]:
    """Return one entry of ``updates`` as JSON values."""
    document: dict[str, Any] = {
        "variant": update.variant,
        "arch": update.arch,
        "version": str(update.version),
        "max_version": str(update.max_version),
        "waves": update.waves.to_json(),
        "images": by_role_to_json(update.images, str),
    }
    if update.contents is not None:
        document["contents"] = by_role_to_json(update.contents, _content_to_json)
    if update.packs is not None:
        document["packs"] = packs_to_json(update.packs)
    if update.floor is not None:
        document["floor"] = str(update.floor)
    if update.hold is not None:
        document["hold"] = _hold_to_json(update.hold)
    return document | dict(update.extra)


def _hold_to_json(hold: Hold) -> dict[str, Any]:
    reason = {"reason": hold.reason} if hold.reason else {}
    return {"since": format_time(hold.since), **reason, **hold.extra}


def _content_to_json(content: Content) -> dict[str, Any]:
    return {"size": content.size, "sha256": content.sha256, **content.extra}
