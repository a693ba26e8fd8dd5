"""Pushing to a folder and to a bucket: what readers get, at any moment, and what is refused."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from repo_tools.ceremony import new_repository
from repo_tools.cli import cli
from repo_tools.copies.destination import cache_control
from repo_tools.copies.folder_destination import FolderDestination
from repo_tools.copies.locations import destination_of
from repo_tools.copies.push import push
from repo_tools.copies.serve import serving
from repo_tools.errors import (
    BrokenRepositoryError,
    DestinationError,
    DivergedError,
    ExpiredRepositoryError,
    NothingToPushError,
    TargetError,
)
from repo_tools.repository.published import TIMESTAMP
from repo_tools.repository.session import writing
from repo_tools.trust.source import UrlSource
from repo_tools.upkeep import check
from signpost.console import run
from signpost.medium import OsMedium
from tests.repo_tools.clients import Client
from tests.support.buckets import Bucket, new_bucket, s3_server
from tests.support.repositories import KilledError, SmallRepository, later, make_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from repo_tools.copies.destination import Destination, StoredObject, VersionedObject

_TINY = {"boot_size": 4096, "root_size": 8192, "hash_size": 4096}


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Somewhere to push to, by its name on the command line, and the URL where readers read it."""

    name: str
    url: str
    bucket: Bucket | None = None

    def destination(self) -> Destination:
        return destination_of(self.name)

    def files(self) -> dict[str, int]:
        held = {**self.destination().list_files("metadata"), **self.destination().list_files("targets")}
        return {path: facts.size for path, facts in held.items()}


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "folder":
        folder = tmp_path / "www"
        folder.mkdir()
        with serving(folder) as url:
            yield Place(name=str(folder), url=url)
    else:
        url = request.getfixturevalue("s3_url")
        name = f"b{abs(hash(tmp_path))}"
        bucket = new_bucket(url, name)
        yield Place(name=f"s3://{name}/os", url=f"{url}/{name}/os", bucket=bucket)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> SmallRepository:
    repository = make_repository(tmp_path_factory.mktemp("master") / "repo", versions=[])
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        repository.synthesize(version, sizes=_TINY)
    repository.publish("1.0.0")
    return repository


@pytest.fixture
def repository(master: SmallRepository, tmp_path: Path) -> SmallRepository:
    return _copy(master, tmp_path / "repo")


def _copy(repository: SmallRepository, folder: Path) -> SmallRepository:
    shutil.copytree(repository.folder, folder)
    return SmallRepository(folder=folder, now=repository.now, images=repository.images)


def _push(repository: SmallRepository, destination: Destination) -> None:
    push(repository.folder, destination, now=repository.now)


def _versions(place: Place, client: Client) -> list[str]:
    return [str(update.version) for update in client.manifest(place.url).updates]


def test_readers_get_what_was_pushed(place: Place, repository: SmallRepository, tmp_path: Path) -> None:
    client = Client(tmp_path / "node", repository.root_json)
    _push(repository, place.destination())
    assert _versions(place, client) == ["1.0.0"]
    repository.publish("1.1.0")
    assert _versions(place, client) == ["1.0.0"]
    _push(repository, place.destination())
    assert _versions(place, client) == ["1.0.0", "1.1.0"]
    assert check.check(UrlSource(place.url), now=repository.now).clean


def test_what_is_there_is_not_uploaded_again(place: Place, repository: SmallRepository) -> None:
    _push(repository, place.destination())
    with pytest.raises(NothingToPushError):
        _push(repository, place.destination())
    repository.publish("1.1.0")
    done = push(repository.folder, place.destination(), now=repository.now)
    assert len(done.targets) == 12
    assert done.metadata == ("metadata/3.targets.json", "metadata/3.snapshot.json", TIMESTAMP)


def test_a_target_that_was_changed_there_is_repaired(place: Place, repository: SmallRepository) -> None:
    _push(repository, place.destination())
    path = next(path for path in place.files() if "-root" in path)
    before = place.files()
    destination = place.destination()
    there = destination.read(path, 1 << 20)
    assert destination.put(path, b"half", expected=there)
    done = push(repository.folder, place.destination(), now=repository.now)
    assert (done.targets, done.metadata) == ((path,), ())
    assert place.files() == before


def test_caching_headers_depend_on_the_kind_of_file(repository: SmallRepository, s3_url: str) -> None:
    bucket = new_bucket(s3_url, "caches")
    _push(repository, destination_of("s3://caches"))
    keys = [item["Key"] for item in bucket.client.list_objects_v2(Bucket="caches")["Contents"]]
    kinds = {key: bucket.facts(key)["CacheControl"] for key in keys}
    assert kinds.pop(TIMESTAMP) == "no-cache"
    assert set(kinds.values()) == {"public, max-age=31536000, immutable"}
    assert len(kinds) == len(keys) - 1 == 14
    assert bucket.facts("metadata/1.root.json")["ContentType"] == "application/json"


def test_a_server_of_ours_says_the_same_to_caches(repository: SmallRepository) -> None:
    import requests

    with repository.served() as url:
        for path in (TIMESTAMP, "metadata/1.root.json"):
            answer = requests.get(f"{url}/{path}", timeout=60)
            assert answer.headers["Cache-Control"] == cache_control(path)


class Killed:
    """A destination whose user is killed just before step number ``at``: a step is a call that changes it."""

    def __init__(self, inner: Destination, at: int | None = None) -> None:
        self._inner = inner
        self._at = at
        self.steps: list[str] = []

    @property
    def name(self) -> str:
        return self._inner.name

    def list_files(self, folder: str) -> Mapping[str, StoredObject]:
        return self._inner.list_files(folder)

    def read(self, path: str, most: int) -> VersionedObject | None:
        return self._inner.read(path, most)

    def upload(self, path: str, file: Path, told: Callable[[int], None]) -> None:
        self._step(path)
        self._inner.upload(path, file, told)

    def put(self, path: str, data: bytes, *, expected: VersionedObject | None) -> bool:
        if expected or path not in self._inner.list_files("metadata"):
            self._step(path)
        return self._inner.put(path, data, expected=expected)

    def remove(self, path: str) -> None:
        self._step(path)
        self._inner.remove(path)

    def _step(self, path: str) -> None:
        if self._at is not None and len(self.steps) >= self._at:
            raise KilledError(path)
        self.steps.append(path)


def test_killed_at_every_step_readers_keep_the_old_release_and_the_next_push_completes(
    place: Place, repository: SmallRepository, tmp_path: Path
) -> None:
    _push(repository, place.destination())
    repository.publish("1.1.0")
    client = Client(tmp_path / "node", repository.root_json)
    seen = []
    for _ in range(20):
        killed = Killed(place.destination(), 1)  # one step further each time: what was done is kept
        try:
            _push(repository, killed)
        except KilledError:
            seen.append(_versions(place, client))
            assert check.check(UrlSource(place.url), now=repository.now).clean
        else:
            break
    assert seen == [["1.0.0"]] * 14, "twelve targets, two numbered metadata; then the timestamp alone"
    assert _versions(place, client) == ["1.0.0", "1.1.0"]
    assert check.check(UrlSource(place.url), now=repository.now).clean


def test_targets_go_first_and_the_timestamp_last(place: Place, repository: SmallRepository) -> None:
    recorder = Killed(place.destination())
    _push(repository, recorder)
    kinds = ["targets/" if step.startswith("targets/") else step for step in recorder.steps]
    assert kinds == ["targets/"] * 11 + [
        "metadata/1.root.json",
        "metadata/2.targets.json",
        "metadata/2.snapshot.json",
        TIMESTAMP,
    ]


class Racing(Killed):
    """A destination to which another publisher pushes just before ``path`` is written."""

    def __init__(self, inner: Destination, path: str, other: Callable[[], None]) -> None:
        super().__init__(inner)
        self._path = path
        self._other: Callable[[], None] | None = other

    def _step(self, path: str) -> None:
        if path.startswith(self._path) and self._other:
            other, self._other = self._other, None
            other()


@pytest.mark.parametrize("moment", ["targets/", "metadata/3.targets.json", "metadata/3.snapshot.json"])
def test_of_two_publishers_at_once_one_wins_and_the_other_gets_an_error(
    place: Place, repository: SmallRepository, tmp_path: Path, moment: str
) -> None:
    _push(repository, place.destination())
    other = _copy(repository, tmp_path / "other")
    other.publish("1.1.0")
    repository.publish("1.2.0")
    pushes = {"1.1.0": lambda: _push(other, place.destination())}
    pushes["1.2.0"] = lambda: _push(repository, Racing(place.destination(), moment, told("1.1.0")))
    refused: dict[str, DivergedError] = {}

    def told(version: str) -> Callable[[], None]:
        def attempt() -> None:
            try:
                pushes[version]()
            except DivergedError as error:
                refused[version] = error

        return attempt

    told("1.2.0")()
    ((loser, error),) = refused.items()
    assert loser == ("1.1.0" if moment == "metadata/3.snapshot.json" else "1.2.0")
    assert "mirror" in (error.next_step or "")
    (winner,) = pushes.keys() - refused.keys()
    assert _versions(place, Client(tmp_path / "node", repository.root_json)) == ["1.0.0", winner]
    assert check.check(UrlSource(place.url), now=repository.now).clean


def test_two_timestamps_at_once_collide(place: Place, repository: SmallRepository, tmp_path: Path) -> None:
    _push(repository, place.destination())
    other = _copy(repository, tmp_path / "other")
    repository.publish("1.1.0")
    with writing(
        other.folder, OsMedium(), now=other.now
    ) as session:  # nothing numbered: only its timestamp differs
        session.re_sign(["timestamp"], later(other.now, hours=1))
    race = Racing(place.destination(), TIMESTAMP, lambda: _push(other, place.destination()))
    with pytest.raises(DivergedError, match="written another metadata/timestamp"):
        _push(repository, race)
    assert _versions(place, Client(tmp_path / "node", repository.root_json)) == ["1.0.0"]


def test_a_later_publisher_gets_an_error_before_anything_is_uploaded(
    place: Place, repository: SmallRepository, tmp_path: Path
) -> None:
    other = _copy(repository, tmp_path / "other")
    other.publish("1.1.0")
    _push(other, place.destination())
    before = place.files()
    repository.publish("1.2.0")
    with pytest.raises(DivergedError, match="signed elsewhere"):
        _push(repository, place.destination())
    repository.publish("1.1.0")  # now its version is higher, and the other's release would be lost
    with pytest.raises(DivergedError, match="snapshot 3, which was not signed in"):
        _push(repository, place.destination())
    assert place.files() == before


def test_what_a_damaged_timestamp_says_is_cut_and_printable(
    repository: SmallRepository, tmp_path: Path
) -> None:
    destination = FolderDestination(tmp_path / "www")
    _push(repository, destination)
    repository.publish("1.1.0")
    stored = tmp_path / "www" / TIMESTAMP
    document = json.loads(stored.read_bytes())
    document["signed"]["expires"] = "\x1b[2J" + "9" * 100_000
    stored.write_text(json.dumps(document))
    with pytest.raises(DivergedError, match="cannot be read") as caught:
        _push(repository, destination)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


def test_another_repository_is_not_overwritten(
    place: Place, repository: SmallRepository, tmp_path: Path
) -> None:
    _push(repository, place.destination())
    before = place.files()
    new_repository.create(tmp_path / "another", now=repository.now)
    with pytest.raises(DivergedError, match=r"1\.root\.json is not a root of this repository"):
        push(tmp_path / "another", place.destination(), now=repository.now)
    assert place.files() == before


def _expire(repository: SmallRepository) -> SmallRepository:
    return SmallRepository(folder=repository.folder, now=later(repository.now, days=8))


def _half_copied(repository: SmallRepository) -> SmallRepository:
    next((repository.folder / "targets").glob("*-root.erofs.zst")).unlink()
    return repository


def _changed(repository: SmallRepository) -> SmallRepository:
    path = next((repository.folder / "targets").glob("*-root.erofs.zst"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    return repository


def _half_signed(repository: SmallRepository) -> SmallRepository:
    (repository.folder / "metadata" / "2.snapshot.json").unlink()
    return repository


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        pytest.param(_expire, ExpiredRepositoryError, "timestamp.json", id="expired"),
        pytest.param(_half_copied, TargetError, "No such file", id="half-copied"),
        pytest.param(_changed, TargetError, "has SHA-256", id="changed"),
        pytest.param(_half_signed, BrokenRepositoryError, "metadata-missing", id="half-signed"),
    ],
)
def test_what_no_client_would_take_is_not_uploaded(
    place: Place,
    repository: SmallRepository,
    spoil: Callable[[SmallRepository], SmallRepository],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        _push(spoil(repository), place.destination())
    assert place.files() == {}


def test_a_missing_bucket_is_reported(repository: SmallRepository, s3_url: str) -> None:
    assert s3_url
    with pytest.raises(DestinationError, match="NoSuchBucket"):
        _push(repository, destination_of("s3://nowhere-at-all/os"))


def test_an_unreachable_server_is_reported(
    repository: SmallRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(DestinationError, match=r"127\.0\.0\.1:9"):
        _push(repository, destination_of("s3://bucket"))


@pytest.mark.parametrize("place", ["http://example.com/x", "", "s3://"])
def test_a_text_that_is_not_a_destination_is_refused(place: str) -> None:
    with pytest.raises(DestinationError):
        destination_of(place)


def test_the_command_line(
    repository: SmallRepository, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "www"
    words = ["--repo", str(repository.folder), "push"]
    assert run(cli, words) == 2
    assert "destination = " in capfd.readouterr().err
    assert run(cli, [*words, str(place), "--dry-run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["dry_run"] is True
    assert not place.exists()
    config = repository.folder / "repo.toml"
    config.write_text(f'destination = "file://{place}"\n{config.read_text()}')
    assert run(cli, [*words, "--json"]) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {line["event"] for line in lines[:-1]} == {"progress"}
    assert lines[-1]["metadata"][-1] == TIMESTAMP
    for path in (place / "targets").iterdir():
        assert path.read_bytes() == (repository.folder / "targets" / path.name).read_bytes()
    assert run(cli, [*words]) == 3
    assert "already has everything" in capfd.readouterr().err


def test_a_folder_is_looked_into_while_another_publisher_renames_its_files(tmp_path: Path) -> None:
    destination = FolderDestination(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets/kept").write_bytes(b"kept")
    done = threading.Event()

    def rename() -> None:
        temporary = tmp_path / "targets/new.tmp"
        while not done.is_set():
            temporary.write_bytes(b"new")
            temporary.rename(tmp_path / "targets/new")

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        assert all("targets/kept" in destination.list_files("targets") for _ in range(2000))
    finally:
        done.set()
        thread.join()


def _forget(repository: SmallRepository, place: Place) -> str:
    """Push something that this repository then no longer contains or lists; return its path."""
    path = f"targets/{'0' * 64}.old"
    place.destination().upload(path, repository.folder / "repo.toml", lambda _: None)
    return path


def test_targets_that_are_gone_here_are_deleted_there_after_a_day(
    place: Place, repository: SmallRepository
) -> None:
    _push(repository, place.destination())
    before = place.files()
    path = _forget(repository, place)
    for days, deleted in ((0, ()), (2, (path,))):
        facts: dict[str, Any] = {"now": later(repository.now, days=days), "delete": timedelta(days=1)}
        if deleted:
            assert push(repository.folder, place.destination(), dry_run=True, **facts).deleted == deleted
            assert path in place.files()
            assert push(repository.folder, place.destination(), **facts).deleted == deleted
        else:
            with pytest.raises(NothingToPushError):
                push(repository.folder, place.destination(), **facts)
    assert place.files() == before
