"""Which mirror is asked, and what a download does when some of them fail or lie (D65, D70)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.http_server import HttpServer, answer, plain, trickled, unused_port
from tests.support.patience import slowness_of_this_run
from updog.errors import DigestError, HttpStatusError, UnreachableError
from updog.image.index import Span
from updog.transport import HttpTransport, TransportSettings
from updog.transport.mirrors import HALF_LIFE_SECONDS, WRONG_CONTENT_POINTS, Mirrors

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = random.Random(65).randbytes(50_000)
NAME = "targets/image.zst"
A, B, C = "https://a.example/", "https://b.example/t/", "file:///srv/c/"


class Time:
    """A clock that only sleeping moves.

    Attributes:
        slept: every sleep.
    """

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Time:
    return Time()


# -- scores ------------------------------------------------------------------------------------------------


def test_mirrors_are_asked_in_the_configured_order(clock: Time) -> None:
    mirrors = Mirrors({A: (B, C)}, monotonic=clock.monotonic)
    assert mirrors.order(f"{A}x/y") == (f"{A}x/y", f"{B}x/y", f"{C}x/y")


def test_what_is_under_no_base_has_itself_only(clock: Time) -> None:
    mirrors = Mirrors({A: (B,)}, monotonic=clock.monotonic)
    assert mirrors.order("https://elsewhere.example/x") == ("https://elsewhere.example/x",)
    mirrors.failed("https://elsewhere.example/x", "https://elsewhere.example/x")


def test_the_longest_base_decides(clock: Time) -> None:
    mirrors = Mirrors({A: (B,), f"{A}targets/": (C,)}, monotonic=clock.monotonic)
    assert mirrors.order(f"{A}targets/x") == (f"{A}targets/x", f"{C}x")
    assert mirrors.order(f"{A}1.root.json") == (f"{A}1.root.json", f"{B}1.root.json")


def test_a_mirror_that_is_named_twice_is_asked_once(clock: Time) -> None:
    assert Mirrors({A: (A, B, B)}, monotonic=clock.monotonic).order(A) == (A, B)


def test_a_failure_puts_a_mirror_behind_the_others_for_a_half_life(clock: Time) -> None:
    mirrors = Mirrors({A: (B, C)}, monotonic=clock.monotonic)
    mirrors.failed(f"{A}x", f"{A}x")
    assert mirrors.order(f"{A}y") == (f"{B}y", f"{C}y", f"{A}y")
    clock.now = HALF_LIFE_SECONDS
    assert mirrors.order(f"{A}y")[0] == f"{B}y"
    clock.now += 1
    assert mirrors.order(f"{A}y") == (f"{A}y", f"{B}y", f"{C}y")


def test_more_failures_count_more_and_blame_most(clock: Time) -> None:
    mirrors = Mirrors({A: (B, C)}, monotonic=clock.monotonic)
    mirrors.failed(f"{A}x", f"{A}x", WRONG_CONTENT_POINTS)
    mirrors.failed(f"{A}x", f"{B}x")
    mirrors.failed(f"{A}x", f"{B}x")
    mirrors.failed(f"{A}x", f"{C}x")
    assert mirrors.order(f"{A}x") == (f"{C}x", f"{B}x", f"{A}x")
    clock.now = 4 * HALF_LIFE_SECONDS + 1
    assert mirrors.order(f"{A}x") == (f"{A}x", f"{B}x", f"{C}x")


def test_points_do_not_pile_up_without_end(clock: Time) -> None:
    mirrors = Mirrors({A: (B,)}, monotonic=clock.monotonic)
    for _ in range(10_000):
        mirrors.failed(f"{A}x", f"{A}x", WRONG_CONTENT_POINTS)
    clock.now = 6 * HALF_LIFE_SECONDS
    assert mirrors.order(f"{A}x")[0] == f"{A}x"


# -- downloads ---------------------------------------------------------------------------------------------


class Two:
    """Two servers with the same file, and a transport that uses both."""

    def __init__(self, one: HttpServer, two: HttpServer, clock: Time) -> None:
        self.one, self.two, self.clock = one, two, clock

    def transport(self, *, tries: int = 2, first: str | None = None) -> HttpTransport:
        self.base = first or self.one.url()
        settings = TransportSettings(
            tries=tries, connect_timeout=5, stall_timeout=5, mirrors={self.base: (self.two.url(),)}
        )
        return HttpTransport(
            settings, sleep=self.clock.sleep, monotonic=self.clock.monotonic, jitter=lambda: 1.0
        )

    def fetched(self, transport: HttpTransport, **more: bool) -> bytes:
        return b"".join(transport.stream(self.base + NAME, limit=len(CONTENT), **more))


@pytest.fixture
def two(clock: Time) -> Iterator[Two]:
    with HttpServer({NAME: CONTENT}) as one, HttpServer({NAME: CONTENT}) as second:
        yield Two(one, second, clock)


def test_a_healthy_first_mirror_is_the_only_one_asked(two: Two) -> None:
    assert two.fetched(two.transport()) == CONTENT
    assert (len(two.one.log), len(two.two.log)) == (1, 0)


@pytest.mark.parametrize("status", [503, 404, 403, 410])
def test_another_mirror_is_asked_at_once_without_a_wait(two: Two, status: int) -> None:
    """D65: also for what the first one does not have yet."""
    two.one.behave(NAME, answer(status, {"Retry-After": "50"}))
    assert two.fetched(two.transport()) == CONTENT
    assert (len(two.one.log), len(two.two.log), two.clock.slept) == (1, 1, [])


def test_a_mirror_where_nobody_listens_is_passed_over(two: Two) -> None:
    assert two.fetched(two.transport(first=f"http://127.0.0.1:{unused_port()}/")) == CONTENT
    assert two.clock.slept == []


def test_a_download_goes_on_at_another_mirror_at_the_same_byte(two: Two) -> None:
    """D70. Their ETags differ, as those of different machines do."""
    two.one.behave(NAME, plain(cut=20_000, etag='"one"'))
    two.two.behave(NAME, plain(etag='"two"'))
    assert two.fetched(two.transport()) == CONTENT
    assert two.two.log[0].headers["Range"] == "bytes=20000-"


def test_a_mirror_that_failed_is_not_asked_first_by_the_next_download(two: Two) -> None:
    transport = two.transport()
    two.one.behave(NAME, answer(500), plain())
    for _ in range(3):
        assert two.fetched(transport) == CONTENT
    assert (len(two.one.log), len(two.two.log)) == (1, 3)
    two.clock.now += HALF_LIFE_SECONDS + 1
    assert two.fetched(transport) == CONTENT
    assert (len(two.one.log), len(two.two.log)) == (2, 3)


def test_each_mirror_has_its_tries_before_it_is_over_and_waits_lie_between_rounds(two: Two) -> None:
    two.one.behave(NAME, answer(500))
    two.two.behave(NAME, answer(503, {"Retry-After": "9"}))
    with pytest.raises(UnreachableError, match="HTTP 50"):
        two.fetched(two.transport(tries=2))
    assert (len(two.one.log), len(two.two.log)) == (2, 2)
    assert sorted(two.clock.slept) == [pytest.approx(0.4), 9.0]


def test_the_last_tries_are_for_the_mirror_that_is_left(two: Two) -> None:
    two.one.behave(NAME, answer(404))
    two.two.behave(NAME, answer(500), answer(500), plain())
    assert two.fetched(two.transport(tries=3)) == CONTENT
    assert (len(two.one.log), len(two.two.log)) == (1, 3)


def test_where_no_mirror_has_it_the_first_one_s_answer_is_the_error(two: Two) -> None:
    two.one.behave(NAME, answer(404))
    two.two.behave(NAME, answer(410))
    with pytest.raises(HttpStatusError) as caught:
        two.fetched(two.transport())
    assert caught.value.http_status == 404


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_file_is_final_if_the_caller_says_so(two: Two, status: int) -> None:
    """The next root is absent nearly always; asking every mirror for it would double the requests."""
    two.one.behave(NAME, answer(status))
    with pytest.raises(HttpStatusError):
        two.fetched(two.transport(), absence_is_final=True)
    assert two.two.log == []


def test_a_mirror_with_a_file_of_another_length_is_passed_over(two: Two) -> None:
    """D65: ranges are of a file whose length is signed."""
    two.one.files[NAME] = CONTENT[:-1]
    transport = two.transport()
    spans = [Span(offset=10, length=20), Span(offset=40_000, length=10_000)]
    found = transport.ranges(two.base + NAME, spans, length=len(CONTENT))
    assert [b"".join(blocks) for _, blocks in found] == [CONTENT[10:30], CONTENT[40_000:]]
    assert len(two.one.log) == 1
    assert transport.received <= 20 + 10_000 + 20


def test_a_mirror_whose_validators_change_is_kept(two: Two) -> None:
    """D62: two machines behind one address."""
    two.one.behave(NAME, plain(etag='"a"'), plain(etag='"b"'))
    transport = two.transport()
    spans = [Span(offset=start, length=10) for start in (0, 100, 200)]
    found = transport.ranges(two.base + NAME, spans, length=len(CONTENT))
    assert [b"".join(blocks) for _, blocks in found] == [
        CONTENT[start : start + 10] for start in (0, 100, 200)
    ]
    assert (len(two.one.log), len(two.two.log)) == (3, 0)


def test_whoever_notices_wrong_bytes_gets_them_from_elsewhere_next_time(two: Two) -> None:
    """D65: mirror A bad data, mirror B good."""
    two.one.files[NAME] = bytes(len(CONTENT))
    transport = two.transport()
    assert two.fetched(transport) != CONTENT
    transport.demote_mirror(two.base + NAME)
    assert two.fetched(transport) == CONTENT
    transport.demote_mirror("https://never.asked.example/")


def test_a_file_url_is_a_mirror_like_any_other(two: Two, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A USB stick first and the network for what it lacks, and the other way round."""
    folder = tmp_path_factory.mktemp("stick")
    assert two.fetched(two.transport(first=f"{folder.as_uri()}/")) == CONTENT
    (folder / "targets").mkdir()
    (folder / NAME).write_bytes(CONTENT[:-5])
    with two.transport(first=f"{folder.as_uri()}/") as transport:
        found = transport.ranges(two.base + NAME, [Span(offset=0, length=len(CONTENT))], length=len(CONTENT))
        assert b"".join(next(found)[1]) == CONTENT
    assert len(two.two.log) == 2


def test_where_all_are_of_the_wrong_length_it_is_a_digest_error(two: Two) -> None:
    two.one.files[NAME] = two.two.files[NAME] = CONTENT + b"!"
    ranges = two.transport().ranges(two.base + NAME, [Span(offset=0, length=5)], length=len(CONTENT))
    with pytest.raises(DigestError):
        next(ranges)


# -- slow mirrors ------------------------------------------------------------------------------------------


def test_a_slow_mirror_is_left_after_one_window_for_one_that_was_not_measured(clock: Time) -> None:
    mirrors = Mirrors({A: (B, C)}, monotonic=clock.monotonic, slow_rate=1000, window=10)
    assert not mirrors.is_outrun(f"{A}x", f"{A}x", (4_000, 9), ())
    assert mirrors.is_outrun(f"{A}x", f"{A}x", (500, 1), ())
    assert mirrors.order(f"{A}y") == (f"{B}y", f"{C}y", f"{A}y")


def test_windows_are_summed_over_files(clock: Time) -> None:
    mirrors = Mirrors({A: (B,)}, monotonic=clock.monotonic, slow_rate=1000, window=10)
    left = [mirrors.is_outrun(f"{A}{number}", f"{A}{number}", (300, 1), ()) for number in range(10)]
    assert left == [False] * 9 + [True]


def test_two_slow_mirrors_do_not_alternate_and_the_faster_one_stays(clock: Time) -> None:
    mirrors = Mirrors({A: (B,)}, monotonic=clock.monotonic, slow_rate=1000, window=10)
    assert mirrors.is_outrun(f"{A}x", f"{A}x", (3_000, 10), ())
    assert not mirrors.is_outrun(f"{A}x", f"{B}x", (4_000, 10), ())
    assert mirrors.order(f"{A}x") == (f"{B}x", f"{A}x")
    assert mirrors.is_outrun(f"{A}x", f"{B}x", (1_000, 10), ()), "the first was three times as fast"


@pytest.mark.parametrize("reason", ["fast", "refused", "failed", "alone"])
def test_a_mirror_is_kept(clock: Time, reason: str) -> None:
    others = {} if reason == "alone" else {A: (B,)}
    mirrors = Mirrors(others or {A: ()}, monotonic=clock.monotonic, slow_rate=1000, window=10)
    if reason == "failed":
        mirrors.failed(f"{A}x", f"{B}x")
    refused = {f"{B}x"} if reason == "refused" else set()
    length = 10_000 if reason == "fast" else 9_999
    assert not mirrors.is_outrun(f"{A}x", f"{A}x", (length, 10), refused)


def test_without_a_minimum_rate_no_mirror_is_slow(clock: Time) -> None:
    mirrors = Mirrors({A: (B,)}, monotonic=clock.monotonic, window=10)
    assert not mirrors.is_outrun(f"{A}x", f"{A}x", (1, 1_000), ())


@pytest.mark.parametrize("kind", ["stream", "ranges"])
def test_a_mirror_that_drips_above_the_minimum_rate_is_left_in_the_middle(kind: str) -> None:
    """Real time: at this rate the file would take eight minutes, and every window keeps the minimum rate."""
    with HttpServer({NAME: CONTENT}) as one, HttpServer({NAME: CONTENT}) as two:
        one.behave(NAME, trickled(size=10, every=0.1))
        settings = TransportSettings(
            stall_timeout=1, minimum_rate=50, mirrors={one.url(): (two.url(),)}, tries=1
        )
        with HttpTransport(settings) as transport:
            if kind == "stream":
                data = b"".join(transport.stream(one.url(NAME), limit=len(CONTENT)))
            else:
                spans = [Span(offset=0, length=20_000), Span(offset=20_000, length=30_000)]
                found = transport.ranges(one.url(NAME), spans, length=len(CONTENT))
                data = b"".join(b"".join(blocks) for _, blocks in found)
        assert data == CONTENT
        assert len(one.log) == 1
        assert 0 < two.log[0].start < 1_000, "nothing is fetched again"


def test_a_slow_mirror_alone_is_used_to_the_end() -> None:
    slow = slowness_of_this_run()  # bytes that should come in time come later by this factor here
    with HttpServer({NAME: CONTENT[:400]}) as one:
        one.behave(NAME, trickled(size=20, every=0.1))
        settings = TransportSettings(stall_timeout=0.5 * slow, minimum_rate=max(1, round(50 / slow)), tries=1)
        with HttpTransport(settings) as transport:
            assert b"".join(transport.stream(one.url(NAME), limit=400)) == CONTENT[:400]


def test_which_mirror_answered_is_known_for_the_last_files_only(clock: Time) -> None:
    mirrors = Mirrors({A: (B,)}, monotonic=clock.monotonic)
    for number in range(1_000):
        mirrors.answered(f"{A}{number}", f"{B}{number}")
    assert mirrors.last_to_answer(f"{A}999") == f"{B}999"
    assert mirrors.last_to_answer(f"{A}0") is None
