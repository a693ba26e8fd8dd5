"""Every error of the node's agent, each with its exit status and its next step.

There are three families, by what the operator has to do: the repository is unreachable (exit status 5),
something was refused to protect the node (4), and all other errors (1 or 2). Busy is always 75.
"""

from __future__ import annotations

from signpost.errors import ExitStatus, ToolError, UsageError


class ConfigError(UsageError):
    """The configuration file is missing, unreadable or has faults (all of them are listed)."""

    code = "config"
    default_next_step = "Correct the file; `updog help configuration` lists every key."


class HostError(ToolError):
    """The version or the slot of the running system cannot be determined."""

    code = "host"
    default_next_step = "Check `os_release` and `boot_record` in the configuration, or pass --active."


class BusyError(ToolError):
    """Another updog holds the node's lock."""

    status = ExitStatus.BUSY
    code = "busy"
    default_next_step = "Wait until it has finished; `updog status` works in the meantime."


class NotRunningError(ToolError):
    """The agent does not run."""

    code = "not-running"
    default_next_step = "Start it with `systemctl start updog-agent`; with auto.mode off it ends by itself."


class NothingToDoError(ToolError):
    """There is no update to install, or nothing is staged; nothing was changed."""

    status = ExitStatus.NOTHING_TO_DO
    code = "nothing-to-do"
    default_next_step = "Run `updog why` to see what each release is waiting for."


class UnreachableError(ToolError):
    """The repository, or a part of it, could not be fetched."""

    status = ExitStatus.UNREACHABLE
    code = "unreachable"
    default_next_step = (
        "Check the network, the proxy and the configured URLs; the running system was not changed."
    )


_PORTAL = (
    "Log in to this network if it asks for that (a captive portal); else check the configured URLs. "
    "The running system was not changed."
)
_DENIED = (
    "The server denies access, or is a bucket without such a file: check login and token in the configured "
    "URL, and the client certificate."
)
_ADVICE = {401: _DENIED, 403: _DENIED, 511: _PORTAL}  # 511: RFC 6585, section 6


class HttpStatusError(UnreachableError):
    """The server answered with an HTTP error status.

    Attributes:
        http_status: the status code of the response.
    """

    code = "http-status"

    def __init__(self, url: str, http_status: int) -> None:
        super().__init__(f"{url} answered HTTP {http_status}", next_step=_ADVICE.get(http_status, ""))
        self.http_status = http_status


class WebPageError(UnreachableError):
    """A server answered with a web page instead of the file: a captive portal, or a wrong URL."""

    code = "web-page"
    default_next_step = _PORTAL

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} is answered with a web page")


class RefusedError(ToolError):
    """Something was refused to protect the node."""

    status = ExitStatus.REFUSED
    code = "refused"
    default_next_step = "No slot was marked valid; the running slot was not changed."


class RecalledError(RefusedError):
    """The publisher withdrew or held the installed update before it ran; it was not applied."""

    code = "recalled"
    default_next_step = "Run `updog update`: it installs what the repository offers now."


class StateFormatError(RefusedError):
    """The state file was written by a newer updog; it was not changed."""

    code = "state-format"
    default_next_step = "Run the newer updog of the other slot, or update this one; nothing was lost."


class TrustError(RefusedError):
    """The repository's metadata does not verify."""

    code = "untrusted"
    default_next_step = "Report this to the repository's publisher; the node keeps its current version."


class ExpiredError(TrustError):
    """The metadata is correctly signed but has expired (a freeze attack looks the same)."""

    code = "expired"
    default_next_step = (
        "Check the node's clock. If it is correct, the publisher must run `repo-tools refresh`. "
        "Behind an air gap, accept it explicitly with `updog --accept-expired-until TIME`."
    )


class RollbackError(TrustError):
    """The repository offers older metadata than this node has already seen."""

    code = "rollback"


class SignatureError(TrustError):
    """Too few valid signatures for the role's threshold."""

    code = "signature"


class DigestError(RefusedError):
    """The length or SHA-256 of a file differs from what was signed."""

    code = "digest"
    default_next_step = "Try again, or use another mirror; the slot was not marked valid."


class EndlessDataError(DigestError):
    """A download exceeded its signed length and was cut off."""

    code = "endless-data"


class MissingTargetError(TrustError):
    """The manifest names a file that the signed targets metadata does not list."""

    code = "missing-target"


class ImageError(RefusedError):
    """An image is not a well-formed compressed stream, or does not fit its partition."""

    code = "image"


class IndexFormatError(ImageError):
    """A chunk index or a delta does not follow its format; it was not used to fetch or write anything."""

    code = "index"
    default_next_step = (
        "Report this to the repository's publisher; an update that does not use it is still possible."
    )


class ReadBackError(RefusedError):
    """The disk returns other bytes than were written."""

    code = "read-back"
    default_next_step = "Do not trust this disk: check its health (SMART) before the next attempt."


class PreflightError(RefusedError):
    """A check before the first write failed; nothing was written."""

    code = "preflight"


class TooManyBytesError(PreflightError):
    """The update needs to download more than --max-bytes allows; this plan was not carried out."""

    code = "too-many-bytes"
    default_next_step = "Allow more with --max-bytes; `updog plan` shows how much the update downloads."


class PlanChangedError(RefusedError):
    """The update is not what the accepted plan said; nothing was changed."""

    code = "plan-changed"
    default_next_step = "Look at the new plan with `updog plan`, and accept its id."


class UnconfirmedSlotError(PreflightError):
    """The running slot is not confirmed yet, so the other slot is needed as the only way back."""

    code = "unconfirmed"
    default_next_step = "Run `updog confirm` first; it marks this boot successful or falls back."


class DeniedVersionError(RefusedError):
    """This version fell back on this node before."""

    code = "denied"
    default_next_step = (
        "Wait for a newer version, or fix the cause and run `updog deny-list --clear VERSION`."
    )


class HealthError(RefusedError):
    """A required health check failed; the node falls back."""

    code = "unhealthy"
    default_next_step = "Reboot to return to the previous slot; `updog history` shows the cause."


class HookError(RefusedError):
    """A hook before the restart failed or could not be run; the node was not restarted."""

    code = "hook-failed"
    default_next_step = "Fix what the hook reports; the restart is tried again later."


class UnitsError(UsageError):
    """The units cannot start the program where it is said to be."""

    code = "units"
    default_next_step = "Pass --prefix: the folder that has bin/updog, such as /opt/updog."


class DrillFileError(UsageError):
    """A drill file has faults (all of them are listed), or there is no such drill."""

    code = "drill-file"
    default_next_step = (
        "`updog drill list` lists the drills; their files in the folder updog/drill/drills of the installed "
        "package are examples of the format."
    )


class DrillFailedError(ToolError):
    """A drill did not end as its file requires."""

    code = "drill-failed"
    default_next_step = "Read the console log of the failed drill; its node is kept next to it."


class DrillSkippedError(ToolError):
    """A drill cannot run, because something that it needs is missing."""

    status = ExitStatus.NOTHING_TO_DO
    code = "drill-skipped"
    default_next_step = "Provide the releases that `updog drill list` names for this drill."


class NoWayBackError(HealthError):
    """A required health check failed, and the other slot cannot take over; the node stays as it is."""

    code = "no-way-back"
    default_next_step = "Do not restart: fix what the check reports, then run `updog confirm` again."
