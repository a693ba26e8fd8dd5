"""Promote a release from one channel to another: what the first has tried, the second approves by signing.

Rules:

* no image is copied: the target channel's metadata list the same files, by the digests they have now, and its
  manifest says what they unpack to. Whoever holds the first channel's keys can change neither afterwards;
* before that every file is read and compared with what the first channel signed;
* a release that is held, or withdrawn, is not promoted; one that is there already is refused;
* it starts its own waves in the target channel; floor, images, deltas and the migrations that lead to it go
  with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repo_tools.changes import Change, one_line
from repo_tools.channel_session import writing_in
from repo_tools.channels import role_of
from repo_tools.effects import reach
from repo_tools.errors import ReleaseError
from repo_tools.keys import Secrets, no_secrets
from repo_tools.listing import Listed, require_whole
from repo_tools.release import joined, policy_named, waves_of
from repo_tools.session import read_manifest
from repo_tools.store import file_of
from signpost.medium import OsMedium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import TargetFile, Targets

    from repo_tools.release import Which
    from repo_tools.session import Committed, Session
    from updog.durable import Medium
    from updog.update_metadata.manifest import Manifest, Update
    from updog.update_metadata.version import Version


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What to promote, and how it starts.

    Attributes:
        which: the release. source: channel it is in. target: channel it goes to; None is the top level.
        waves: a policy as `publish` takes it; empty for the repository's own.
        start_at: when the waves start; None for now. reason: why, for the log of changes.
    """

    which: Which
    source: str | None
    target: str | None
    waves: str = ""
    start_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    """What promoting does.

    Attributes:
        promotion: what was asked. update: the release as the target channel offers it.
        targets: name → what is listed there from now on. effects: on the fleet, a sentence each.
        manifest: of the target channel, as it will be.
    """

    promotion: Promotion
    update: Update
    targets: dict[str, TargetFile]
    effects: tuple[str, ...]
    manifest: Manifest

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``--json`` prints it."""
        return {
            "variant": self.update.variant,
            "arch": self.update.arch,
            "version": str(self.update.version),
            "from": role_of(self.promotion.source),
            "to": role_of(self.promotion.target),
            "waves": self.update.waves.to_json(),
            "targets": [
                {"name": name, "length": item.length, "sha256": item.hashes["sha256"]}
                for name, item in sorted(self.targets.items())
            ],
            "effects": list(self.effects),
            "reason": self.promotion.reason,
        }


def promote(
    folder: Path,
    promotion: Promotion,
    *,
    now: datetime,
    dry_run: bool = False,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
) -> tuple[Promoted, Committed | None]:
    """Promote a release; return what that does, and what came of it, None for a dry run.

    Raises:
        ToolError: ReleaseError, ChannelError, TargetError, PolicyError, SigningKeyError, ThresholdError,
            RepositoryBusyError, BrokenRepositoryError or MediumError; nothing was changed.
    """
    with writing_in(folder, medium or OsMedium(), secrets, promotion.target) as session:
        promoted = _decided(session, promotion, now)
        require_whole(folder, list(_files(promoted.targets)))
        if dry_run:
            return promoted, None
        change = Change(
            action=f"promote from {role_of(promotion.source)}",
            subject=str(promoted.update),
            effects=promoted.effects,
            reason=one_line(promotion.reason),
        )
        return promoted, session.commit(promoted.manifest, [], now, change, listed=promoted.targets)


def _decided(session: Session, promotion: Promotion, now: datetime) -> Promoted:
    if promotion.source == promotion.target:
        raise ReleaseError("--from and --to are the same channel", next_step="Name two channels.")
    listing = session.published.listing(promotion.source)
    source = read_manifest(session.store.source, listing, promotion.source)
    update = _offered(promotion, source)
    waves = waves_of(policy_named(promotion.waves or session.config.waves), promotion.start_at or now)
    draft = replace(update, waves=waves, max_version=update.version)
    manifest = _with_migrations(joined(session.manifest, draft), source, update.version)
    final = manifest.find(*update.key) or draft
    gone = [old.version for old in session.manifest.updates if not manifest.find(*old.key)]
    floor = (f"nodes below {update.floor} must pass through it first",) if update.floor else ()
    return Promoted(
        promotion=promotion,
        update=final,
        targets=_targets(listing, session.listing, list(_names(update, manifest, source)), promotion),
        effects=(
            f"nodes of {role_of(promotion.target)}: {reach(final, now)}",
            *floor,
            *(f"took the withdrawn {version} off the manifest" for version in gone),
        ),
        manifest=manifest,
    )


def _offered(promotion: Promotion, source: Manifest) -> Update:
    update = promotion.which.of(source)
    where = role_of(promotion.source)
    if update.hold:
        raise ReleaseError(f"{update} is held in {where}", next_step="Resume it there first, or leave it.")
    if update.version > update.max_version:
        raise ReleaseError(f"{update} is withdrawn in {where}", next_step="Promote another release.")
    return update


def _with_migrations(manifest: Manifest, source: Manifest, version: Version) -> Manifest:
    """Return a manifest with the migrations of the source that lead to a version, or to one below it."""
    more = {pair: names for pair, names in source.migrations.items() if pair[1] <= version}
    return replace(manifest, migrations={**manifest.migrations, **more})


def _names(update: Update, manifest: Manifest, source: Manifest) -> Iterator[str]:
    """Yield the names of the targets that a release needs."""
    yield from (update.images.boot, update.images.root, update.images.hash)
    if update.packs:
        yield from update.packs.targets()
    for pair, names in source.migrations.items():
        if pair in manifest.migrations:
            yield from names


def _targets(
    source: Targets, target: Targets, names: list[str], promotion: Promotion
) -> dict[str, TargetFile]:
    """Return what the source lists of these. Raises ReleaseError."""
    listed: dict[str, TargetFile] = {}
    for name in names:
        if name not in source.targets:
            raise ReleaseError(f"{role_of(promotion.source)} does not list {name}")
        known = target.targets.get(name)
        if known is not None and known.hashes != source.targets[name].hashes:
            raise ReleaseError(
                f"{role_of(promotion.target)} has approved another {name}: of SHA-256 "
                f"{known.hashes.get('sha256')}, not {source.targets[name].hashes.get('sha256')}",
                next_step="One name must not mean two contents: publish under a new version number.",
            )
        listed[name] = source.targets[name]
    return listed


def _files(targets: dict[str, TargetFile]) -> Iterator[Listed]:
    for name, item in targets.items():
        digest = item.hashes["sha256"]
        path = f"targets/{file_of(name, digest)}"
        yield Listed(name=name, path=path, length=item.length, sha256=digest)
