"""Every error of repo-tools, each with its exit status and its next step.

Faults of the wire model (a version, a manifest, a policy) come from
:mod:`updog.update_metadata.errors` and pass through unchanged.
"""

from __future__ import annotations

from signpost.errors import ExitStatus, ToolError, UsageError


class ConfigError(UsageError):
    """repo.toml is missing, unreadable or has faults (all of them are listed)."""

    code = "config"
    default_next_step = "Correct repo.toml; `repo-tools new DIR` writes one with every key explained."


class NoRepositoryError(UsageError):
    """The folder does not contain a repository."""

    code = "no-repository"
    default_next_step = "Pass --repo DIR, or create a repository with `repo-tools new DIR`."


class RepositoryExistsError(UsageError):
    """The folder for a new repository is not empty; nothing was changed."""

    code = "repository-exists"
    default_next_step = "Name a folder that is empty or does not exist."


class RepositoryBusyError(ToolError):
    """Another publisher holds the repository's lock; nothing was changed."""

    status = ExitStatus.BUSY
    code = "busy"
    default_next_step = "Wait until it has finished, then run the command again."


class SigningKeyError(UsageError):
    """A private key cannot be used: missing, unreadable, of an unsupported type, or wrong passphrase."""

    code = "signing-key"
    default_next_step = "Check the key's URI in repo.toml, and that this machine can reach the key."


class ThresholdError(ToolError):
    """The available keys make fewer valid signatures than the role's threshold; nothing was published."""

    code = "threshold"
    default_next_step = "Make the missing keys available in repo.toml; `repo-tools root show` lists them."


class BrokenRepositoryError(ToolError):
    """The repository's own metadata does not verify; nothing was changed."""

    code = "repository-broken"
    default_next_step = "See `repo-tools validate`; restore the damaged file from a mirror or a backup."


class ImageError(UsageError):
    """An image cannot be published: it is missing, empty or unreadable."""

    code = "image"
    default_next_step = "Check the paths given to --boot, --root and --hash."


class UnreadableImageError(ImageError):
    """A boot image is an ext4 file system whose files cannot be read."""

    code = "image-unreadable"
    default_next_step = "Check it with `e2fsck -fn FILE`, and build it again."


class InspectionToolError(ImageError):
    """The program that reads boot images is not installed; nothing was published."""

    code = "inspect-tool"
    default_next_step = "Install debugfs (Debian package e2fsprogs), or pass --no-inspect."


class UnfitImagesError(ImageError):
    """Images are not a release that boots; nothing was published. Each fault has a code of its own."""

    code = "images-unfit"
    default_next_step = "Build the images again; `--no-inspect` publishes foreign formats as they are."


class StoredImageError(ToolError):
    """A published image differs from what was signed, or is not a well-formed compressed stream."""

    code = "stored-image"
    default_next_step = (
        "See `repo-tools validate`; restore the target from a mirror or publish a new version."
    )


class VerityError(ToolError):
    """The dm-verity hash image cannot be created."""

    code = "verity"
    default_next_step = "Install veritysetup (Debian package cryptsetup-bin), or pass --hash FILE."


class ClockBehindError(ToolError):
    """The clock of this machine is behind the repository's last signature; nothing was signed."""

    code = "clock"
    default_next_step = (
        "Set the clock (NTP), and run the command again. If this clock is right, and that of the last "
        "signature was ahead: `repo-tools refresh --clock-is-right`."
    )


class ReleaseError(UsageError):
    """The named release does not exist, or several releases match."""

    code = "release"
    default_next_step = "`repo-tools waves show` lists what is published; pass --channel, --variant, --arch."


class UnpublishedError(ReleaseError):
    """The channel, or the top-level releases, do not have the named release.

    Attributes:
        variant, arch: None for any. version: of the release.
    """

    def __init__(
        self, message: str, *, variant: str | None, arch: str | None, version: str, next_step: str = ""
    ) -> None:
        super().__init__(message, next_step=next_step)
        self.variant, self.arch, self.version = variant, arch, version


class ChannelError(UsageError):
    """The channel does not exist, or cannot be created as requested; nothing was changed."""

    code = "channel"
    default_next_step = "`repo-tools channel list` lists the channels."


class ChannelProposalError(UsageError):
    """A file is not a channel proposal, or does not fit the repository; nothing was changed."""

    code = "pending"
    default_next_step = "Create it again with the command that wrote it."


class ElapsedWavesError(ToolError):
    """The waves of a release have started while its change waited for signatures; nothing was published."""

    code = "elapsed-waves"
    default_next_step = (
        "Make the change again, with --start-at after the last signature; or publish it as it is: "
        "`repo-tools channel finish FILE --accept-elapsed`."
    )


class NothingToRefreshError(ToolError):
    """Nothing expires soon; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "Pass a longer --within to re-sign earlier."


class NothingToWithdrawError(ToolError):
    """The release is already withdrawn; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "`repo-tools waves show` lists what is on offer."


class NothingToFinishError(ToolError):
    """The change is already published; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "`repo-tools log` lists what is in force."


class RolloutUnchangedError(ToolError):
    """The release is already in the requested state; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "`repo-tools waves show` lists what is on offer."


class RepositoryUnreachableError(ToolError):
    """The repository's server did not give a usable answer."""

    status = ExitStatus.UNREACHABLE
    code = "unreachable"
    default_next_step = "Check the URL and the network, then try again."


class DiskExistsError(UsageError):
    """The file for a new disk image already exists; it was not changed."""

    code = "disk-exists"
    default_next_step = "Name another file, or remove this file first."


class DiskLayoutError(UsageError):
    """The requested partitions do not fit the disk or the release; no file was left behind."""

    code = "disk-layout"
    default_next_step = "Pass a larger --size, or --slot-size values that are large enough for the images."


class ServeError(ToolError):
    """The loopback server cannot listen."""

    code = "serve"
    default_next_step = "Choose another --port; 0 selects a free port."


class BootStageError(ToolError):
    """The boot stage cannot be built; nothing was written."""

    code = "boot-stage"
    default_next_step = "`repo-tools boot-stage build --help` lists the packages that it is built from."


class ImageSourceError(ToolError):
    """What images are to be built from cannot be used; nothing was written."""

    code = "image-source"
    default_next_step = "`repo-tools images build --help` says what an image can be built from."


class ImageBuildError(ToolError):
    """The images cannot be built; those that were there before are unchanged."""

    code = "image-build"
    default_next_step = "See `repo-tools images build --help` for what it needs."


class ImageFaultsError(ToolError):
    """What images are to be built from would not run as a node; nothing was written."""

    code = "image-faults"
    default_next_step = "Correct each of them in the source, or by the option that its line names."


class DestinationError(ToolError):
    """The destination of a push cannot be used, or does not answer."""

    status = ExitStatus.UNREACHABLE
    code = "destination"
    default_next_step = "Check the destination, the credentials and the network, then push again."


class DivergedError(ToolError):
    """Another publisher has published at the destination; what readers see there was not changed."""

    code = "diverged"
    default_next_step = (
        "Copy theirs into a new folder with `repo-tools mirror`, put repo.toml and the keys there, "
        "publish your release there, and push."
    )


class ExpiredRepositoryError(ToolError):
    """Signatures of the repository have expired; nothing was copied or uploaded."""

    code = "repository-expired"
    default_next_step = "Re-sign with `repo-tools refresh`."


class TargetError(ToolError):
    """A signed file is missing, or differs from what was signed; nothing was published from it."""

    code = "target"
    default_next_step = "See `repo-tools validate`; restore the file from a mirror or a backup."


class NothingToPushError(ToolError):
    """The destination already has everything; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "Publish something first."


class MissingExtraError(UsageError):
    """A command needs a library that is not installed; nothing was changed."""

    code = "missing-extra"
    default_next_step = "Install the extra that contains it from your own index or wheel."


class FleetPlanError(UsageError):
    """The rollout that `simulate` was asked for is contradictory, or does not fit in memory."""

    code = "fleet-plan"
    default_next_step = "See `repo-tools simulate --help` for the limits."


class ChartError(UsageError):
    """A chart or a page cannot be written to the given file."""

    code = "chart"
    default_next_step = "Name a file that ends in .png or .svg, in a folder that exists."


class UntrustedError(ToolError):
    """The source cannot be verified from a trusted root; nothing was copied."""

    code = "untrusted"
    default_next_step = (
        "Pass --trusted-root FILE: a root.json of this repository that you received in a trusted way."
    )


class StaleSourceError(ToolError):
    """The source is older than the copy; nothing was copied."""

    code = "stale-source"
    default_next_step = "Use a newer source; an attacker may be holding back updates."


class BundleError(ToolError):
    """A bundle cannot be created, or a file is not a bundle; nothing was changed."""

    code = "bundle"
    default_next_step = "Create it again with `repo-tools bundle export`."


class ProposalError(UsageError):
    """A file is not a root proposal, or the requested change is not possible; the file was not changed."""

    code = "proposal"
    default_next_step = "See `repo-tools root verify PROPOSAL`."


class TamperedProposalError(ToolError):
    """A proposal differs from what one of its signers signed, or contradicts itself; nothing was signed."""

    code = "proposal-tampered"
    default_next_step = "Do not trust this file. Get the original from its author, through another channel."


class StaleProposalError(ToolError):
    """A proposal starts from a root other than the published one; nothing was changed."""

    code = "proposal-stale"
    default_next_step = "Create the proposal again from this repository, and have it signed again."


class IncompleteProposalError(ToolError):
    """A proposal does not have enough signatures; nothing was published."""

    code = "proposal-incomplete"
    default_next_step = "Send it to a holder who has not signed: `repo-tools root sign PROPOSAL --key URI`."


class KeyNotOfRoleError(UsageError):
    """The key is not one of the keys that sign for this role; nothing was signed."""

    code = "key-not-of-role"
    default_next_step = "`repo-tools root verify PROPOSAL` lists the keys that count; check --key."


class NothingToSignError(ToolError):
    """The key has already signed, or the root is already published; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "`repo-tools root verify PROPOSAL` shows what is missing."


class RehearsalError(ToolError):
    """A step of a rehearsal ended in an unexpected status; no real repository or key was used."""

    code = "rehearsal"
    default_next_step = "Run the step by hand in the folder of `root rehearse --keep DIR`."


class LogError(UsageError):
    """An access log or a file of outcome lines cannot be read, or has an unknown format."""

    code = "log"
    default_next_step = "`repo-tools report --help` lists the log formats that are read."


class NothingToPruneError(ToolError):
    """Every release and every file is still needed; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "Pass a lower --keep to remove more releases."
