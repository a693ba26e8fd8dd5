"""Publish a release: plan, stage, lock, plan again, sign, write.

What is done with a release later is in :mod:`repo_tools.releases.rollout`.

Rules:

* everything that can be refused beforehand is refused by the plan (:mod:`repo_tools.releases.plan`), before
  the first image is read;
* nobody waits while images are compressed: the lock is taken afterwards. The release is then planned again
  on what is published by then, and refused if what was compressed does not fit that any more;
* it is published, and its waves start, when it is signed, which is when readers can see it, not when
  compressing starts;
* what is packed was inspected before (:mod:`repo_tools.images.inspection`): images that are not of one build,
  or that the boot stage would not start, are refused;
* the manifest says what every image unpacks to, so that a node can compare a slot with it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from repo_tools.keys.signers import Secrets, no_secrets
from repo_tools.readable import readable_medium
from repo_tools.releases.plan import plan_release, require_unchanged
from repo_tools.releases.release import ReleaseChange, cautions
from repo_tools.releases.staging import stage_images
from repo_tools.repository.change_log import Change
from repo_tools.repository.channel_session import of_channel, writing_channel
from repo_tools.repository.session import reading
from repo_tools.repository.workspace import workspace
from signpost.progress import Progress, silent

if TYPE_CHECKING:
    from pathlib import Path

    from repo_tools.releases.plan import ReleasePlan
    from repo_tools.releases.release import NewRelease
    from updog.durable import Medium

__all__ = ["plan", "publish"]


def plan(folder: Path, release: NewRelease, *, now: datetime, secrets: Secrets = no_secrets) -> ReleasePlan:
    """Return what publishing a release would do.

    Tries the keys, takes no lock, reads no image, writes nothing.

    Raises:
        ToolError: what :func:`repo_tools.releases.plan.plan_release` raises, and BrokenRepositoryError.
    """
    session = of_channel(reading(folder, readable_medium(), secrets, now=now), release.channel)
    return plan_release(session, release, now=now)


def publish(
    folder: Path,
    release: NewRelease,
    *,
    now: datetime | None = None,
    medium: Medium | None = None,
    secrets: Secrets = no_secrets,
    progress: Progress = silent,
) -> ReleaseChange:
    """Publish a release in the repository in ``folder``. A reader always sees the old state or the new one.

    Args:
        folder: the repository.
        release: what to publish.
        now: when it is signed; None for the time of the clock when the images are compressed.
        medium: written through.
        secrets: asked for passphrases.
        progress: called at the beginning and after every block, from any thread.

    Raises:
        ToolError: what the plan raises (:func:`repo_tools.releases.plan.plan_release`), and
            StoredImageError, RepositoryBusyError, BrokenRepositoryError or MediumError.
    """
    medium = medium or readable_medium()
    began = now or datetime.now(UTC)
    first = of_channel(reading(folder, medium, secrets, now=began), release.channel)
    planned = plan_release(first, release, now=began)
    with workspace(folder, medium) as place:
        staged = stage_images(planned, place, medium, progress)
        signed = now or datetime.now(UTC)
        with writing_channel(folder, medium, secrets, release.channel, now=signed) as locked:
            session = replace(locked, signers=first.signers.with_uris(locked.signers.uris))
            final = plan_release(session, release, now=signed)
            require_unchanged(session, planned, final)
            update = replace(final.added.update, contents=staged.contents, packs=staged.packs)
            change = Change(
                action="publish",
                subject=str(update),
                effects=final.added.effects(signed),
                reason=release.reason,
            )
            manifest = final.added.manifest.with_changed(update)
            return ReleaseChange(
                update=update,
                committed=session.commit(manifest, staged.files, signed, change),
                targets=staged.files,
                root_hash=staged.root_hash,
                cautions=cautions(update, signed),
                dropped=final.added.dropped,
                not_inspected=staged.not_inspected,
            )
