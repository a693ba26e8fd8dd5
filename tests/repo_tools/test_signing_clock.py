"""A clock that is behind the last signature signs nothing; an operator can confirm that it is right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tuf.api.metadata import Metadata, Timestamp

from repo_tools import config
from repo_tools.cli import cli
from repo_tools.errors import ClockBehindError, NothingToRefreshError
from repo_tools.keys.signers import SignerStore, key_source, no_secrets
from repo_tools.releases import promote, rollout
from repo_tools.releases.finish import finish
from repo_tools.releases.release import ReleaseName
from repo_tools.repository import channel_files, pending_changes
from repo_tools.repository.published import manifest_of
from repo_tools.repository.signing_clock import MAX_CLOCK_SKEW
from repo_tools.trust.chain import walk
from repo_tools.trust.expirations import expirations
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep import prune, refresh
from signpost.console import run
from tests.repo_tools.clients import Client
from tests.support.channels import add_channel, make_key
from tests.support.repositories import SmallRepository, make_repository, tree_digest
from updog.update_metadata.signed_time import SIGNED_AT
from updog.update_metadata.times import format_time
from updog.update_metadata.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WHICH = ReleaseName(version=Version.parse("1.1.0"))


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    repository = make_repository(tmp_path / "repo", versions=["1.0.0", "1.1.0"], waves="default")
    add_channel(repository, "dev")
    return repository


def _signed_at(repository: SmallRepository) -> object:
    data = (repository.folder / "metadata" / "timestamp.json").read_bytes()
    return Metadata[Timestamp].from_bytes(data).signed.unrecognized_fields.get(SIGNED_AT)


def _promote(repository: SmallRepository, now: datetime) -> object:
    promotion = promote.Promotion(which=WHICH, source=None, target="dev")
    return promote.promote(repository.folder, promotion, now=now)


def _new_channel(repository: SmallRepository, now: datetime) -> object:
    key = key_source("file2:keys/beta.pem", repository.folder, no_secrets)
    return channel_files.add(repository.folder, channel_files.NewChannel(name="beta", signers=[key]), now=now)


CHANGES: dict[str, Callable[[SmallRepository, datetime], object]] = {
    "publish": lambda repository, now: repository.publish("1.2.0", now=now),
    "publish in a channel": lambda repository, now: repository.publish("1.2.0", now=now, channel="dev"),
    "hold": lambda repository, now: rollout.hold(repository.folder, WHICH, now=now),
    "withdraw": lambda repository, now: rollout.take(repository.folder, rollout.withdrawing(WHICH), now=now),
    "promote": _promote,
    "channel add": _new_channel,
    "prune": lambda repository, now: prune.prune(
        repository.folder, prune.PruneRequest(keep=1, grace=timedelta()), now=now
    ),
    "refresh": lambda repository, now: refresh.refresh(
        repository.folder, within=timedelta(days=9999), now=now
    ),
    "refresh with nothing due": lambda repository, now: refresh.refresh(
        repository.folder, within=timedelta(minutes=1), now=now
    ),
}


@pytest.mark.parametrize("behind", [timedelta(days=730), timedelta(hours=164), timedelta(minutes=6)], ids=str)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_is_signed_by_a_clock_behind_the_last_signature(
    repository: SmallRepository, change: Callable[[SmallRepository, datetime], object], behind: timedelta
) -> None:
    make_key(repository.folder, "beta")
    before = tree_digest(repository.folder)
    with pytest.raises(ClockBehindError, match="this repository was last signed at"):
        change(repository, repository.now - behind)
    assert tree_digest(repository.folder) == before


def test_a_proposal_is_not_finished_by_a_clock_behind(repository: SmallRepository) -> None:
    add_channel(repository, "stable", available=[True, False], threshold=2)
    pending = repository.folder / "pending" / "stable-1.json"
    proposal = pending_changes.load(pending)
    other = {key.keyid: "file2:keys/stable-2.pem" for key in proposal.keys}
    channel_files.add_signature(proposal, SignerStore(uris=other, folder=repository.folder))
    with pytest.raises(ClockBehindError):
        finish(repository.folder, [proposal], now=repository.now - timedelta(days=1))


def test_a_refresh_counts_as_the_last_signature(repository: SmallRepository) -> None:
    refreshed = repository.now + timedelta(days=5)
    refresh.refresh(repository.folder, within=timedelta(days=9), now=refreshed)
    assert _signed_at(repository) == format_time(refreshed.replace(microsecond=0))
    with pytest.raises(ClockBehindError):
        repository.publish("1.2.0", now=refreshed - timedelta(days=1))


def test_clocks_may_differ_a_little_but_many_small_steps_do_not_add_up(repository: SmallRepository) -> None:
    last = _signed_at(repository)
    rollout.hold(repository.folder, WHICH, now=repository.now - MAX_CLOCK_SKEW + timedelta(seconds=1))
    assert _signed_at(repository) == last
    with pytest.raises(ClockBehindError):
        repository.publish("1.2.0", now=repository.now - 2 * MAX_CLOCK_SKEW)


def test_the_log_tells_the_time_in_a_repository_that_another_program_signed(
    repository: SmallRepository,
) -> None:
    path = repository.folder / "metadata" / "timestamp.json"
    metadata = Metadata[Timestamp].from_bytes(path.read_bytes())
    del metadata.signed.unrecognized_fields[SIGNED_AT]
    metadata.signatures.clear()
    root = walk(FolderSource(repository.folder)).root
    assert root
    keys = [root.keys[keyid] for keyid in root.roles["timestamp"].keyids]
    uris = config.load(repository.folder).signers
    for signer in SignerStore(uris=uris, folder=repository.folder).of(keys):
        metadata.sign(signer, append=True)
    path.write_bytes(metadata.to_bytes())
    with pytest.raises(ClockBehindError):
        repository.publish("1.2.0", now=repository.now - timedelta(days=1))
    repository.publish("1.2.0", now=repository.now + timedelta(seconds=1))
    assert _signed_at(repository)


def test_an_operator_says_that_the_last_clock_was_ahead(tmp_path: Path) -> None:
    ahead = datetime.now(UTC) + timedelta(days=730)
    repository = make_repository(tmp_path / "repo", versions=["1.0.0"], now=ahead, expires=["timestamp=9w"])
    repo = ["--repo", str(repository.folder)]
    assert run(cli, [*repo, "refresh"]) == 1
    assert run(cli, [*repo, "refresh", "--clock-is-right"]) == 0
    rows = expirations(walk(FolderSource(repository.folder)), now=datetime.now(UTC))
    online = [row for row in rows if row.role != "root"]
    assert all(row.left <= timedelta(days=90) for row in online)
    repository.publish("1.1.0", now=datetime.now(UTC))
    assert len(manifest_of(repository.folder).updates) == 2
    with repository.served() as url:
        assert len(Client(tmp_path / "client", repository.root_json).manifest(url).updates) == 2


def test_the_same_second_is_no_clock_behind(repository: SmallRepository) -> None:
    with pytest.raises(NothingToRefreshError):
        refresh.refresh(repository.folder, within=timedelta(minutes=1), now=repository.now)
