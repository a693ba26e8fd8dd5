"""manifest.json: which updates a repository offers, to whom, when, and how to migrate between them.

Rules:
* The format is Bottlerocket's. This project adds members that its readers ignore: ``contents`` (size and
  SHA-256 of each raw image), ``packs`` (how to fetch parts of them), ``floor``, ``hold``, ``urgent`` and
  ``published`` of an update.
* A held update is written under ``held`` instead of ``updates``: a reader that does not support holds does
  not see it at all, whatever its seed and whether or not it ignores waves. In :class:`Manifest` it is one of
  the updates, after those that are not held.
* Unknown members are ignored, kept in ``extra`` of their object and written back.
* A faulty field is reported by its path, all faults of a file at once; no part of a faulty file is used.
  Rules that compare fields (floor below version, no duplicate entry) are checked on valid fields only.
* There is one entry per variant, architecture and version. When one is added, all entries of its variant and
  architecture get the same ``max_version``; others keep theirs.
* Manifests are immutable: every ``with…`` method returns a new one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from updog.update_metadata import fields
from updog.update_metadata.by_image import ByImage
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
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from updog.update_metadata.version import Version

__all__ = ["Contents", "Hold", "Images", "Manifest", "Update"]

MAX_MANIFEST_BYTES = 8 * 1024 * 1024
"""Size of a manifest. Every node reads it into memory as a whole; the largest public one is below 1 MiB."""

MAX_UPDATES = 4096
"""Updates of a manifest: as many entries of about 1.5 KiB as fit the size above."""

MAX_IMAGE_BYTES = 2**53 - 1
"""Size of a raw image: the largest integer that every JSON reader keeps exactly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Images(ByImage[str]):
    """TUF target names of the three images: kernel and boot files, root file system, dm-verity hash tree."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents(ByImage[Content]):
    """Sizes and hashes of the three unpacked images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """An update with a hold is not offered to nodes that do not run it, and its wave schedule is paused.

    Attributes:
        since: when it was paused. reason: why, one printable line; empty if none was given.
        extra: members of a later format.
    """

    since: datetime
    reason: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """One entry of ``updates``.

    Attributes:
        variant: flavour of the operating system. arch: machine architecture.
        version: the version that it installs.
        max_version: versions of this variant and architecture above it are withdrawn.
        waves: at which time it opens for which seeds.
        images: target names of the images.
        contents: sizes and hashes of the unpacked images; None from an upstream publisher.
        packs: how to fetch only parts of the images; None if they can only be fetched as a whole.
        floor: a node below this version must first update to it, or to a later one.
        hold: since when and why it is held; None if it is not.
        urgent: why its publisher marked it urgent, one printable sentence; empty if it is not. Nodes that
            update by themselves then pass the gates that their operators named for it.
        published: when it was published first; None from an upstream publisher.
        extra: members of a later format.
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
    urgent: str = ""
    published: datetime | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.version} for {self.variant} on {self.arch}"

    @property
    def key(self) -> tuple[str, str, Version]:
        """What identifies an update: variant, architecture and version."""
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
        """Return the manifest in ``data``. Raises ManifestError with every fault."""
        try:
            members = fields.Fields(fields.decode_json(data, limit=MAX_MANIFEST_BYTES))
            updates = members.required("updates", _updates)
            held = members.optional("held", _held_updates) or ()
            migrations = members.required("migrations", migrations_from_json)
            members.raise_faults()
            _refuse_duplicates({"updates": updates, "held": held})
        except FaultsError as error:
            raise ManifestError(error.faults) from error
        return cls(updates=_held_last((*updates, *held)), migrations=migrations, extra=members.extra())

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

        Args:
            update: the new update.
            max_version: set on every update of this variant and architecture, including the new one; None:
                the highest of the new version and the present ``max_version``. If it is below the new
                version, the update is published as withdrawn.

        Raises:
            DuplicateUpdateError: its variant, architecture and version are already in the manifest.
            ManifestError: the times of its waves do not rise.
        """
        if old := self.find(*update.key):
            raise DuplicateUpdateError([Fault(path="updates", problem=_already_exists(update, old.version))])
        _require_rising_waves(update)
        present = (other.max_version for other in self.updates_of(update.variant, update.arch))
        highest = max_version or max([update.version, *present])
        manifest = replace(self, updates=_held_last((*self.updates, update)))
        return manifest.with_max_version(update.variant, update.arch, highest)

    def with_max_version(self, variant: str, arch: str, version: Version) -> Manifest:
        """Return the manifest with this ``max_version`` on every update of the variant and architecture.

        Raises:
            UnknownUpdateError: there is none.
        """
        if not self.updates_of(variant, arch):
            problem = f"nothing is published for {variant} on {arch}"
            raise UnknownUpdateError([Fault(path="updates", problem=problem)])
        changed = (
            replace(update, max_version=version)
            if (update.variant, update.arch) == (variant, arch)
            else update
            for update in self.updates
        )
        return replace(self, updates=_held_last(changed))

    def with_waves(self, variant: str, arch: str, version: Version, waves: Waves) -> Manifest:
        """Return the manifest with other waves for one update.

        Raises:
            UnknownUpdateError: there is no such update. ManifestError: the times of the waves do not rise.
        """
        return self.with_changed(replace(self._existing(variant, arch, version), waves=waves))

    def with_hold(self, variant: str, arch: str, version: Version, hold: Hold | None) -> Manifest:
        """Return the manifest with one update held, or released. Raises UnknownUpdateError."""
        return self.with_changed(replace(self._existing(variant, arch, version), hold=hold))

    def with_holds(self, holds: Mapping[tuple[str, str, Version], Hold]) -> Manifest:
        """Return the manifest in which the updates of these keys are held; a hold in it stays."""
        updates = (replace(update, hold=update.hold or holds.get(update.key)) for update in self.updates)
        return replace(self, updates=_held_last(updates))

    def with_changed(self, update: Update) -> Manifest:
        """Return the manifest with ``update`` in place of the entry of the same key.

        Raises:
            UnknownUpdateError: there is none. ManifestError: the times of its waves do not rise.
        """
        self._existing(*update.key)
        _require_rising_waves(update)
        changed = (update if other.key == update.key else other for other in self.updates)
        return replace(self, updates=_held_last(changed))

    def without_update(self, variant: str, arch: str, version: Version) -> Manifest:
        """Return the manifest without one update; ``max_version`` stays. Raises UnknownUpdateError."""
        removed = self._existing(variant, arch, version)
        return replace(self, updates=tuple(update for update in self.updates if update.key != removed.key))

    def _existing(self, variant: str, arch: str, version: Version) -> Update:
        """Return the entry of this variant, architecture and version. Raises UnknownUpdateError."""
        update = self.find(variant, arch, version)
        if update is None:
            problem = f"{version} for {variant} on {arch} does not exist"
            raise UnknownUpdateError([Fault(path="updates", problem=problem)])
        return update


def _held_last(updates: Iterable[Update]) -> tuple[Update, ...]:
    """Return updates in the order in which they are written: held updates last."""
    return tuple(sorted(updates, key=lambda update: update.hold is not None))


def _require_rising_waves(update: Update) -> None:
    faults = update.waves.order_faults()
    if faults:
        raise ManifestError(fault.under(f"{update}: waves") for fault in faults)


def _updates(value: object) -> tuple[Update, ...]:
    return fields.array(value, _update, limit=MAX_UPDATES)


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


def _already_exists(update: Update, old: Version) -> str:
    if str(old) == str(update.version):
        return f"{update} already exists"
    return f"{update} is the same version as {old} (what follows a + is not compared), which already exists"


def _refuse_duplicates(lists: Mapping[str, tuple[Update, ...]]) -> None:
    first: dict[tuple[str, str, Version], tuple[str, Version]] = {}
    faults = [
        Fault(path=place, problem=f"{_already_exists(update, known[1])} as {known[0]}")
        for name, updates in lists.items()
        for index, update in enumerate(updates)
        if (known := first.setdefault(update.key, (place := f"{name}[{index}]", update.version)))[0] != place
    ]
    if faults:
        raise FaultsError(faults)


def _update(value: object) -> Update:
    members = fields.Fields(value)
    update = Update(
        variant=members.required("variant", fields.text),
        arch=members.required("arch", fields.text),
        version=members.required("version", fields.version),
        max_version=members.required("max_version", fields.version),
        waves=members.required("waves", Waves.from_json),
        images=members.required("images", lambda images: Images.from_json(images, fields.text)),
        contents=members.optional("contents", lambda images: Contents.from_json(images, _content)),
        packs=members.optional("packs", packs_from_json),
        floor=members.optional("floor", fields.version),
        hold=members.optional("hold", _hold),
        urgent=members.optional("urgent", fields.sentence) or "",
        published=members.optional("published", fields.time),
        extra=members.extra(),
    )
    members.raise_faults()
    if update.floor is not None and update.floor >= update.version:
        problem = f"{update.floor} is not below {update.version}: no node could ever install this update"
        raise FaultsError([Fault(path="floor", problem=problem)])
    return update


def _hold(value: object) -> Hold:
    """Parse ``{"since": TIME, "reason": TEXT}``, or a time alone."""
    if isinstance(value, str):
        return Hold(since=fields.time(value))
    members = fields.Fields(value)
    hold = Hold(
        since=members.required("since", fields.time),
        reason=members.optional("reason", fields.text) or "",
        extra=members.extra(),
    )
    members.raise_faults()
    return hold


def _content(value: object) -> Content:
    members = fields.Fields(value)
    content = Content(
        size=members.required("size", fields.whole_number_in(1, MAX_IMAGE_BYTES)),
        sha256=members.required("sha256", fields.sha256),
        extra=members.extra(),
    )
    members.raise_faults()
    return content


def update_to_json(update: Update) -> dict[str, Any]:
    """Return one entry of ``updates`` as JSON values."""
    document: dict[str, Any] = {
        "variant": update.variant,
        "arch": update.arch,
        "version": str(update.version),
        "max_version": str(update.max_version),
        "waves": update.waves.to_json(),
        "images": update.images.to_json(str),
    }
    if update.contents is not None:
        document["contents"] = update.contents.to_json(
            lambda content: {"size": content.size, "sha256": content.sha256, **content.extra}
        )
    if update.packs is not None:
        document["packs"] = packs_to_json(update.packs)
    if update.floor is not None:
        document["floor"] = str(update.floor)
    if update.hold is not None:
        reason = {"reason": update.hold.reason} if update.hold.reason else {}
        document["hold"] = {"since": format_time(update.hold.since), **reason, **update.hold.extra}
    if update.urgent:
        document["urgent"] = update.urgent
    if update.published is not None:
        document["published"] = format_time(update.published)
    return document | dict(update.extra)
