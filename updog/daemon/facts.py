"""What the answers of the children mean for the table. PURE.

The children are asked ``updog status --json`` (docs/reference/status.md) and ``updog why --json``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from signpost import text
from updog.auto.gates import Offer
from updog.standing import Standing
from updog.update_metadata.times import parse_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What `updog status` says of the node.

    Attributes:
        running: the version that runs. standing: of the pending update. staged: its version.
        denied: versions that failed on this node. confirmed_at: when the last version was confirmed.
    """

    running: Version
    standing: Standing
    staged: Version | None
    denied: frozenset[Version]
    confirmed_at: datetime | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> NodeFacts:
        """Return the facts in a status document. Raises KeyError, TypeError or ValueError."""
        pending, confirmed = document["pending"], document.get("confirmed_at")
        return cls(
            running=Version.parse(document["running"]["version"]),
            standing=Standing(document["standing"]),
            staged=Version.parse(pending["version"]) if pending else None,
            denied=frozenset(Version.parse(denial["version"]) for denial in document["denied"]),
            confirmed_at=parse_time(confirmed) if confirmed else None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckFacts:
    """What `updog why` says of the releases.

    Attributes:
        offer: the release that is chosen for this node, if any. summary: why, or why none.
        offered: the versions that the publisher offers: neither held nor withdrawn.
        urgent: those of them that it marked urgent → why, as a sentence.
    """

    offer: Offer | None
    summary: str
    offered: frozenset[Version]
    urgent: Mapping[Version, str]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> CheckFacts:
        """Return the facts in such a document. Raises KeyError, TypeError or ValueError."""
        releases = {Version.parse(release["version"]): release for release in document["releases"]}
        chosen = document["chosen"]
        offered = frozenset(version for version, release in releases.items() if _is_offered(release))
        sentences = {version: _urgent(releases[version]) for version in offered}
        return cls(
            offer=_offer(releases[Version.parse(chosen)]) if chosen else None,
            summary=text.line(str(document["summary"])),
            offered=offered,
            urgent={version: sentence for version, sentence in sentences.items() if sentence},
        )


def _is_offered(release: Mapping[str, Any]) -> bool:
    is_withdrawn = Version.parse(release["version"]) > Version.parse(release["max_version"])
    return not is_withdrawn and "hold" not in release


def _offer(release: Mapping[str, Any]) -> Offer:
    """Return a release as the gates see it; it is as old as its first wave, or its publication."""
    waves = [parse_time(start) for start in release["waves"].values()]
    published = release.get("published")
    since = min(waves) if waves else parse_time(published) if published else None
    return Offer(version=Version.parse(release["version"]), since=since, urgent=_urgent(release))


def _urgent(release: Mapping[str, Any]) -> str:
    return text.line(str(release.get("urgent") or ""))
