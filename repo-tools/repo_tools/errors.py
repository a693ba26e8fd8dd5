"""Every error of repo-tools, each with its exit status and its next step.

Faults of the wire model (a version, a manifest, a policy) come from
:mod:`updog.update_metadata.errors` and pass through unchanged.
"""

from __future__ import annotations

from signpost.errors import ExitStatus, ToolError, UsageError


class ConfigError(UsageError):
    """repo.toml is missing, unreadable or has faults (all of them are listed)."""

    code = "config"
    default_next_step = "Correct repo.toml; docs/how-to/publish.md shows one."


class NoRepositoryError(UsageError):
    """The folder holds no repository."""

    code = "no-repository"
    default_next_step = "Pass --repo DIR, or make a repository with `repo-tools new DIR`."


class RepositoryExistsError(UsageError):
    """The folder for a new repository holds something already; nothing was changed."""

    code = "repository-exists"
    default_next_step = "Name a folder that is empty or does not exist."


class RepositoryBusyError(ToolError):
    """Another publisher holds the repository's lock; nothing was changed."""

    status = ExitStatus.BUSY
    code = "busy"
    default_next_step = "Wait for it to end, then run the command again."


class SigningKeyError(UsageError):
    """A private key cannot be used: missing, unreadable, of a wrong kind, or its passphrase is wrong."""

    code = "signing-key"
    default_next_step = "Check the key's URI in repo.toml and that the key can be reached from here."


class ThresholdError(ToolError):
    """The keys at hand make fewer valid signatures than the role's threshold; nothing was published."""

    code = "threshold"
    default_next_step = "Make the missing keys available in repo.toml; `repo-tools root show` lists them."


class BrokenRepositoryError(ToolError):
    """The repository's own metadata does not verify; nothing was changed."""

    code = "repository-broken"
    default_next_step = "See `repo-tools validate`; restore the damaged file from a mirror or a backup."


class ImageError(UsageError):
    """An image cannot be published: missing, empty, or not readable."""

    code = "image"
    default_next_step = "Check the paths given to --boot, --root and --hash."


class StoredImageError(ToolError):
    """A published image is not what was signed, or is not a well-formed compressed stream."""

    code = "stored-image"
    default_next_step = (
        "See `repo-tools validate`; restore the target from a mirror or publish a new version."
    )


class VerityError(ToolError):
    """The dm-verity hash image cannot be made."""

    code = "verity"
    default_next_step = "Install veritysetup (Debian package cryptsetup-bin), or pass --hash FILE."


class ReleaseError(UsageError):
    """The release that was named does not exist, or several fit the name."""

    code = "release"
    default_next_step = "`repo-tools waves show` lists what is published; pass --variant and --arch."


class ChannelError(UsageError):
    """A channel that does not exist, or cannot be made as asked; nothing was changed."""

    code = "channel"
    default_next_step = "`repo-tools channel list` shows the channels."


class PendingError(UsageError):
    """A file that waits for a channel's signatures is none, or does not fit; nothing was changed."""

    code = "pending"
    default_next_step = "Make it anew with the command that wrote it."


class NothingToRefreshError(ToolError):
    """Nothing is near expiry; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "Pass a longer --within to re-sign earlier."


class NothingToWithdrawError(ToolError):
    """The release is withdrawn already; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "`repo-tools waves show` tells what is on offer."


class NothingToSteerError(ToolError):
    """The release is already as the command would make it; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "`repo-tools waves show` tells what is on offer."


class RepositoryUnreachableError(ToolError):
    """The repository's server gave no usable answer."""

    status = ExitStatus.UNREACHABLE
    code = "unreachable"
    default_next_step = "Check the URL and the network, then try again."


class DiskExistsError(UsageError):
    """The file for a new disk image exists; it was not touched."""

    code = "disk-exists"
    default_next_step = "Name another file, or remove this one first."


class DiskLayoutError(UsageError):
    """The partitions asked for do not fit the disk or the release; no file was left behind."""

    code = "disk-layout"
    default_next_step = "Pass a larger --size, or --slot-size values that hold the images."


class ServeError(ToolError):
    """The loopback server cannot listen."""

    code = "serve"
    default_next_step = "Choose another --port; 0 takes a free one."


class BootStageError(ToolError):
    """The boot stage cannot be built; nothing was written."""

    code = "boot-stage"
    default_next_step = "docs/how-to/boot.md names the packages it is made from."


class DestinationError(ToolError):
    """The place to push to cannot be used, or does not answer."""

    status = ExitStatus.UNREACHABLE
    code = "destination"
    default_next_step = "Check the place, the credentials and the network, then push again."


class DivergedError(ToolError):
    """Another publisher has published at the destination; what readers see there was not changed."""

    code = "diverged"
    default_next_step = (
        "Take theirs over into a new folder with `repo-tools mirror`, put repo.toml and the keys there, "
        "publish yours there, and push."
    )


class ExpiredRepositoryError(ToolError):
    """Signatures of the repository have run out; nothing was passed on."""

    code = "repository-expired"
    default_next_step = "Sign them anew with `repo-tools refresh`."


class TargetError(ToolError):
    """A signed file is missing, or is not what was signed; nothing was passed on."""

    code = "target"
    default_next_step = "See `repo-tools validate`; restore the file from a mirror or a backup."


class NothingToPushError(ToolError):
    """The destination holds everything already; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "Publish something first."


class MissingExtraError(UsageError):
    """A command needs a library that is not installed; nothing was changed."""

    code = "missing-extra"
    default_next_step = "Install the extra that brings it, such as pip install 'updog[fleet]'."


class FleetPlanError(UsageError):
    """What `simulate` was asked to play makes no sense, or does not fit in memory."""

    code = "fleet-plan"
    default_next_step = "See `repo-tools simulate --help` for the limits."


class ChartError(UsageError):
    """A chart or a page cannot be written where it was asked for."""

    code = "chart"
    default_next_step = "Name a file that ends in .png or .svg, in a folder that exists."


class UntrustedError(ToolError):
    """What is to be copied does not hang on a root that is trusted; nothing was taken over."""

    code = "untrusted"
    default_next_step = (
        "Pass --trusted-root FILE: a root.json of this repository that came to you on a way you trust."
    )


class StaleSourceError(ToolError):
    """What is to be copied is older than the copy; nothing was taken over."""

    code = "stale-source"
    default_next_step = "Use a newer source; somebody may be holding back updates."


class BundleError(ToolError):
    """A bundle cannot be made, or a file is none; nothing was changed."""

    code = "bundle"
    default_next_step = "Make it anew with `repo-tools bundle export`."


class ProposalError(UsageError):
    """A file is no proposal of a root, or what was asked of one makes no sense; it was not changed."""

    code = "proposal"
    default_next_step = "See `repo-tools root verify PROPOSAL`."


class TamperedProposalError(ToolError):
    """A proposal is not what one of its signers signed, or contradicts itself; nothing was signed."""

    code = "proposal-tampered"
    default_next_step = "Trust nothing in this file. Ask its maker for the original, by another way."


class StaleProposalError(ToolError):
    """A proposal was made against another root than the published one; nothing was changed."""

    code = "proposal-stale"
    default_next_step = "Make the proposal anew from this repository and have it signed again."


class IncompleteProposalError(ToolError):
    """A proposal lacks signatures; nothing was published."""

    code = "proposal-incomplete"
    default_next_step = "Hand it to those who are missing: `repo-tools root sign PROPOSAL --key URI`."


class ForeignKeyError(UsageError):
    """A key signs for neither the old root nor the new one; nothing was signed."""

    code = "key-not-of-role"
    default_next_step = "`repo-tools root verify PROPOSAL` lists whose keys count; check --key."


class NothingToSignError(ToolError):
    """The key has signed already, or the root is published already; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "`repo-tools root verify PROPOSAL` says what is missing."


class RehearsalError(ToolError):
    """A step of a rehearsal ended otherwise than it must; no real repository and no real key was touched."""

    code = "rehearsal"
    default_next_step = "Run the step by hand in the folder of `root rehearse --keep DIR`."


class LogError(UsageError):
    """An access log or a file of outcome lines cannot be read, or is of an unknown kind."""

    code = "log"
    default_next_step = "docs/how-to/watch-a-rollout.md names the kinds of logs that are read."


class NothingToPruneError(ToolError):
    """Every release and every file is needed still; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "Pass a lower --keep to take more releases off."
