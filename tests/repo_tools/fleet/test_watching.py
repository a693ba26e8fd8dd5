"""Logs of a fleet: read as they are, judged correctly, shown safely; holds are signed and reported."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import zstandard

from repo_tools.cli import cli
from repo_tools.errors import LogError
from repo_tools.fleet.bounds import FailureCount
from repo_tools.fleet.evidence import Evidence, EvidenceOptions, gather, tally_of
from repo_tools.fleet.logs import Lines, Logs
from repo_tools.fleet.page import page_of
from repo_tools.fleet.simulate import RolloutPlan
from repo_tools.repository.published import holds_of, manifest_of
from repo_tools.trust.source import FolderSource
from repo_tools.upkeep.check import check
from signpost.console import run
from tests.support.access_logs import ARCH, VARIANT, Written, address, combined, outcome, write_log
from tests.support.channels import add_channel, make_key
from tests.support.repositories import make_repository, tree_digest
from updog.update_metadata.manifest import Hold, Images, Update
from updog.update_metadata.outcomes import OutcomeError, OutcomeLine
from updog.update_metadata.version import Version
from updog.update_metadata.waves import WavePolicy, Waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.repositories import SmallRepository

START = datetime(2026, 11, 2, 6, tzinfo=UTC)
WAVES = WavePolicy.built_in("accelerated").waves(START)
V110 = Version.parse("1.1.0")
UPDATE = Update(
    variant=VARIANT,
    arch=ARCH,
    version=V110,
    max_version=V110,
    waves=WAVES,
    images=Images(boot="b", root="r", hash="h"),
)
PATIENCE = timedelta(hours=3)
AT_ANY_AGE = ("--max-age", "90 weeks")
PLAN = RolloutPlan(waves=WAVES, start=START, nodes=400, bad_rate=0.06)


@pytest.fixture(scope="module")
def rollout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    path = tmp_path_factory.mktemp("logs") / "access.log"
    return path, write_log(path, PLAN, until=timedelta(days=2), hang=0.3)


def evidence_of(*paths: Path, update: Update = UPDATE, **facts: Any) -> Evidence:
    with Logs(paths) as logs:
        return gather(logs, update, EvidenceOptions(patience=PATIENCE, **facts))


def test_what_the_fleet_did_is_what_the_logs_say(rollout: tuple[Path, Written]) -> None:
    path, written = rollout
    evidence = evidence_of(path)
    assert evidence.lines == Lines(read=written.lines, not_understood=0)
    assert evidence.tally.overall == FailureCount(failed=written.failed, total=written.failed + written.good)
    assert (evidence.nodes, evidence.took, evidence.runs) == (400, 400, written.good)
    assert evidence.versions == {"1.1.0": written.good, "1.0.0": 400 - written.good}
    assert evidence.quiet == FailureCount(failed=written.hung, total=400)
    assert evidence.stuck_count == written.failed + written.hung
    assert {node.code for node in evidence.stuck if not node.quiet} == {"boot-failed"}
    assert {node.code for node in evidence.stuck if node.quiet} == {""}
    assert [(kind.code, kind.cause, kind.nodes) for kind in evidence.failures] == [
        ("boot-failed", "kernel panic", written.failed)
    ]
    assert [wave.number for wave in evidence.waves] == [1, 2, 3, 4, 5]
    assert sum(wave.nodes for wave in evidence.waves) == 400
    assert all(wave.open == 1 and wave.took == wave.nodes for wave in evidence.waves)


def test_progress_is_measured_against_the_plan(rollout: tuple[Path, Written]) -> None:
    evidence = evidence_of(rollout[0])
    for ran, planned in zip(evidence.running.shares, evidence.planned.shares, strict=True):
        assert ran <= planned + 0.08
    assert evidence.planned.shares[-1] == 1
    half, most = evidence.reached[50], evidence.reached[90]
    assert half
    assert most
    assert START < half < most
    assert evidence.reached[99] is None
    index = next(i for i, moment in enumerate(evidence.moments) if moment >= half)
    assert evidence.running.shares[index] >= 0.5 > evidence.running.shares[index - 2]
    before, after = evidence.spread[1], evidence.spread[0]
    assert (before.name, after.name) == ("1.1.0", "1.0.0")
    assert all(a + b == pytest.approx(1) for a, b in zip(before.shares, after.shares, strict=True) if a + b)


NOISE = '203.0.113.9 - - [02/Nov/2026:06:00:00 +0000] "\\x16\\x03\\x01" 400 157 "-" "-"\n'

LINES = {
    "nginx": combined(START, "10.0.0.1", "/m/timestamp.json?seed=7&version=1.0.0"),
    "common": '10.0.0.1 - - [02/Nov/2026:06:00:00 +0000] "GET /m?seed=7&version=1.0.0 HTTP/1.1" 200 843\n',
    "zone": '10.0.0.1 - u [02/Nov/2026:08:00:00 +0200] "GET /m?seed=7&version=1.0.0 HTTP/2.0" 200 -\n',
    "s3": (
        "79a5 bucket [02/Nov/2026:06:00:00 +0000] 10.0.0.1 - 3E57 REST.GET.OBJECT m/t.json"
        ' "GET /m?seed=7&version=1.0.0 HTTP/1.1" 200 - 113 - 7 - "-" "updog" -\n'
    ),
    "cloudfront": (
        "#Version: 1.0\n#Fields: date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem"
        " sc-status cs(Referer) cs(User-Agent) cs-uri-query\n2026-11-02\t06:00:00\tFRA2\t100\t10.0.0.1\tGET"
        "\thost\t/m\t200\t-\tupdog\tseed=7&version=1.0.0\n"
    ),
    "vhost": 'h:443 10.0.0.1 - - [02/Nov/2026:06:00:00 +0000] "GET /m?seed=7&version=1.0.0 HTTP/1.1" 200 8\n',
    "nginx-json": (
        '{"time_iso8601":"2026-11-02T06:00:00+00:00","remote_addr":"10.0.0.1","status":"200",'
        '"request":"GET /m?seed=7&version=1.0.0 HTTP/1.1","body_bytes_sent":"843"}\n'
    ),
    "nginx-json-parts": (
        '{"msec":"1793599200.000","remote_addr":"10.0.0.1","uri":"/m","args":"seed=7&version=1.0.0",'
        '"status":200}\n'
    ),
    "caddy": (
        '{"ts":1793599200.0,"request":{"remote_ip":"10.0.0.1","method":"GET","uri":"/m?seed=7&version=1.0.0"},'
        '"status":200,"size":843}\n'
    ),
    "docker": (
        '{"log":"10.0.0.1 - - [02/Nov/2026:06:00:00 +0000] '
        '\\"GET /m?seed=7&version=1.0.0 HTTP/1.1\\" 200 8\\n","stream":"stdout"}\n'
    ),
    "cloudfront-json": (
        '{"date":"2026-11-02","time":"06:00:00","c-ip":"10.0.0.1","cs-uri-stem":"/m",'
        '"cs-uri-query":"seed=7&version=1.0.0","sc-status":"200","sc-bytes":"100"}\n'
    ),
}


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "zstd": lambda data: zstandard.compress(data[:40]) + zstandard.compress(data[40:]),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("packer", PACKERS)
def test_every_kind_of_log_is_read_packed_or_not(tmp_path: Path, kind: str, packer: str) -> None:
    path = tmp_path / "access[1]*.log"  # the name says nothing about the content, and is not a pattern
    path.write_bytes(PACKERS[packer](LINES[kind].encode()))
    (tmp_path / "access1x.log").write_text("another log\n")
    with Logs([path]) as logs:
        assert logs.lines == Lines(read=1, not_understood=0)
        assert logs.database.execute(
            "SELECT node, seed, moment, version, target FROM sightings"
        ).fetchall() == [("10.0.0.1 7", 7, START.timestamp(), "1.0.0", None)]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"\xff\xfe\n",
        b'10.0.0.1 - - [99/Nov/2026:06:00:00 +0000] "GET /m?seed=7 HTTP/1.1" 200 843\n',
        b'10.0.0.1 - - [02/Nov/2026:06:00:00 +0000] "\\x16\\x03" 400 0\n',
        b"x" * 3_000_000 + b"\n",
    ],
    ids=["words", "not-utf-8", "no-date", "no-request", "too-long"],
)
def test_a_line_that_is_none_is_not_guessed_at(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(LINES["nginx"].encode() + line + LINES["nginx"].encode())
    with Logs([path]) as logs:
        assert logs.database.execute("SELECT count(*) FROM requests").fetchone() == (2,)
        assert logs.lines.read - logs.lines.not_understood == 2


def test_each_line_says_what_kind_it_is_and_the_others_are_counted(tmp_path: Path) -> None:
    strange = [
        NOISE,
        '203.0.113.9 - - [02/Nov/2026:06:00:00 +0000] "" 408 0 "-" "-"\n',
        '79a5 bucket [02/Nov/2026:06:00:00 +0000] - - 3E57 S3.EXPIRE.OBJECT k "-" - - - - - - "-" "-" -\n',
        '{"broken": \n',
    ]
    path = tmp_path / "access.log"
    path.write_text(
        "".join(strange + [line for line in LINES.values() if not line.startswith("#")] + strange)
    )
    with Logs([path]) as logs:
        assert logs.lines == Lines(read=8 + len(LINES) - 1, not_understood=8)


@pytest.mark.parametrize("first", ["scanner", "empty", "lifecycle"])
def test_a_first_line_that_is_no_request_does_not_make_a_log_unreadable(tmp_path: Path, first: str) -> None:
    path = tmp_path / "access.log"
    path.write_text(
        {
            "scanner": NOISE,
            "empty": '203.0.113.9 - - [02/Nov/2026:06:00:00 +0000] "" 408 0 "-" "-"\n',
            "lifecycle": '79a5 b [02/Nov/2026:06:00:00 +0000] - - 3E S3.EXPIRE.OBJECT k "-" - - - - - -\n',
        }[first]
    )
    with Logs([path]) as logs:
        assert logs.lines == Lines(read=1, not_understood=1)


def test_cloudfront_logs_with_other_fields_in_one_file_are_read_by_their_own_header(tmp_path: Path) -> None:
    other = (
        "#Fields: date time c-ip cs-uri-stem cs-uri-query sc-status sc-bytes\n"
        "2026-11-02\t06:00:00\t10.0.0.2\t/m\tseed=8&version=1.0.0\t200\t100\n"
    )
    path = tmp_path / "access.log"
    path.write_text(LINES["cloudfront"] + other + LINES["cloudfront"])
    with Logs([path]) as logs:
        assert logs.lines == Lines(read=3, not_understood=0)
        rows = logs.database.execute("SELECT node, count(*) FROM sightings GROUP BY node ORDER BY node")
        assert rows.fetchall() == [("10.0.0.1 7", 2), ("10.0.0.2 8", 1)]


@pytest.mark.parametrize("doubled", [False, True])
def test_cloudfronts_encoding_of_per_cent_is_undone(tmp_path: Path, doubled: bool) -> None:  # noqa: FBT001
    query = SAID.to_query()
    path = tmp_path / "access.log"
    path.write_text(
        LINES["cloudfront"].replace("seed=7&version=1.0.0", query.replace("%", "%25") if doubled else query)
    )
    with Logs([path]) as logs:
        assert logs.database.execute("SELECT node, cause, target FROM outcomes").fetchall() == [
            (SAID.node, SAID.cause, str(SAID.to))
        ]


def test_lines_with_bytes_that_are_not_utf_8_are_read_or_counted_never_lost(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    agent = LINES["nginx"].encode().replace(b'"updog"', b'"\xe4\x00\x1f\r"')
    path.write_bytes(agent + b"\xff\xfe\n" + b"x" * 3_000_000 + b"\n" + LINES["nginx"].encode())
    with Logs([path]) as logs:
        assert logs.lines == Lines(read=4, not_understood=2)


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(LINES["nginx"],))
    writer.start()
    with Logs([pipe]) as logs:
        assert logs.lines == Lines(read=1, not_understood=0)
    writer.join()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04rest", "zip"),
        (b"\x04\x22\x4d\x18rest", "lz4"),
        (gzip.compress(b"x" * 9999, mtime=0)[:-9], "cannot read"),
        (lzma.compress(b"x" * 9999)[:-9], "cannot read"),
        (zstandard.compress(bytes(range(256)))[:-9], "cannot read"),
    ],
    ids=["zip", "lz4", "cut-gzip", "cut-xz", "cut-zstd"],
)
def test_a_file_that_cannot_be_unpacked_is_refused_and_named(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "access.log.9"
    path.write_bytes(content)
    with pytest.raises(LogError, match=rf"(?s)access\.log\.9.*{says}|{says}.*access\.log\.9"):
        Logs([path])


@pytest.mark.parametrize(
    "query", ["seed=2048&version=1", "seed=-1", "seed=7x", "seed=", "seed=99999", "xseed=7"]
)
def test_a_seed_that_is_none_is_nobody(tmp_path: Path, query: str) -> None:
    path = tmp_path / "access.log"
    path.write_text(combined(START, "10.0.0.1", f"/m?{query}"))
    assert evidence_of(path).nodes == 0


@pytest.mark.parametrize("content", [b"hello world\n", b"#Fields: date time\n", b"\x1f\x8b broken"])
def test_a_file_of_no_known_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"notes\.txt"):
        Logs([path])
    with pytest.raises(LogError, match="missing"):
        Logs([tmp_path / "missing"])


SAID = outcome(START, 1, 7, version="1.1.0+b.1", code="health-check-failed", cause="50 % of units + more")


def _variants(line: OutcomeLine) -> dict[str, str]:
    """Queries that are outcome lines, nearly are, or try to look like one."""
    query = line.to_query()
    return {
        "whole": query,
        "without-cause": replace(line, cause=None, before=None).to_query(),
        "unknown-member": query + "&more=1",
        "unknown-code": replace(line, code="gone-fishing").to_query(),
        "format-2": query.replace("outcome=1", "outcome=2"),
        "twice": query + "&node=" + "0" * 32,
        "short-node": query.replace(line.node, line.node[:31]),
        "no-node": query.replace(f"node={line.node}", "nodes=1"),
        "bad-seed": query.replace("seed=7", "seed=2048"),
        "no-seed": query.replace("&seed=7", ""),
        "bad-time": re.sub("time=[^&]*", "time=yesterday", query),
        "no-code": re.sub("&code=[^&]*", "", query),
        "no-variant": re.sub("&variant=[^&]*", "&variant=", query),
        "long-code": query.replace("code=", "code=" + "x" * 200),
        "too-long": query + "&x=" + "y" * 5000,
        "not-utf-8": query.replace("variant=", "variant=%ff%fe"),
    }


@pytest.mark.parametrize("name", _variants(SAID))
def test_an_outcome_in_a_request_is_read_as_the_shared_model_reads_it(tmp_path: Path, name: str) -> None:
    query = _variants(SAID)[name]
    path = tmp_path / "access.log"
    path.write_text(combined(START, "10.0.0.1", f"/r?{query}", status=204))
    try:
        line = OutcomeLine.from_query(query)
        expected = [(line.node, line.seed, line.variant, line.arch, line.code, line.cause, str(line.to))]
    except OutcomeError:
        expected = []
    with Logs([path]) as logs:
        found = logs.database.execute(
            "SELECT node, seed, variant, arch, code, cause, target FROM outcomes"
        ).fetchall()
    assert found == expected


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (SAID.to_json(), 1),
        (SAID.to_json().replace('"outcome":1', '"outcome":2'), 0),
        (SAID.to_json()[:-1] + ',"node":"' + "0" * 32 + '"}', 0),
        (SAID.to_json()[:-1], 0),
        ("[]", 0),
    ],
)
def test_outcomes_are_read_from_json_lines(tmp_path: Path, text: str, known: int) -> None:
    path = tmp_path / "outcomes.ndjson"
    path.write_text(f'{{"more": "than one line"}}\n{text}\n')
    with Logs([path]) as logs:
        assert logs.database.execute("SELECT count(*) FROM outcomes").fetchone() == (known,)
        assert logs.lines == Lines(read=2, not_understood=2 - known)


def _votes(tmp_path: Path, *said: OutcomeLine, status: int = 204, **facts: Any) -> FailureCount:
    path = tmp_path / "access.log"
    path.write_text(
        "".join(combined(line.time, address(1), f"/r?{line.to_query()}", status=status) for line in said)
    )
    return evidence_of(path, **facts).tally.overall


def test_a_node_has_one_vote_and_its_latest_counts(tmp_path: Path) -> None:
    bad = outcome(START, 1, 7, code="boot-failed")
    later = outcome(START + timedelta(hours=1), 1, 7)
    assert _votes(tmp_path, bad, bad, bad) == FailureCount(failed=1, total=1)
    assert _votes(tmp_path, bad, later) == FailureCount(failed=0, total=1)
    assert _votes(tmp_path, later, bad) == FailureCount(failed=0, total=1)
    assert _votes(tmp_path, bad, outcome(START, 2, 9)) == FailureCount(failed=1, total=2)


def test_what_does_not_concern_the_release_does_not_count(tmp_path: Path) -> None:
    bad = outcome(START, 1, 7, code="boot-failed")
    for other in (
        replace(bad, variant="other"),
        replace(bad, arch="aarch64"),
        replace(bad, to=Version.parse("1.2.0")),
        replace(bad, code="rolled-back-by-hand"),
    ):
        assert _votes(tmp_path, other) == FailureCount(failed=0, total=0)
    assert _votes(tmp_path, bad, status=404) == FailureCount(failed=0, total=0)
    assert _votes(tmp_path, bad, since=START + timedelta(seconds=1)) == FailureCount(failed=0, total=0)
    assert _votes(tmp_path, bad, since=START) == FailureCount(failed=1, total=1)
    assert _votes(tmp_path, bad, only_seen=True) == FailureCount(failed=0, total=0)
    stable = replace(bad, channel="stable")
    assert _votes(tmp_path, stable) == FailureCount(failed=0, total=0)
    assert _votes(tmp_path, bad, channel="stable") == FailureCount(failed=0, total=0)
    assert _votes(tmp_path, stable, channel="stable") == FailureCount(failed=1, total=1)
    assert _votes(tmp_path, stable, channel="dev") == FailureCount(failed=0, total=0)


def test_only_nodes_that_took_it_are_trusted_if_asked_for(rollout: tuple[Path, Written]) -> None:
    path, written = rollout
    assert evidence_of(path, only_seen=True).tally.overall.failed == written.failed


def test_a_node_is_quiet_only_when_its_patience_is_over(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    took = combined(START, "10.0.0.1", "/t?seed=7&version=1.0.0&target=1.1.0")
    soon = combined(START + PATIENCE, "10.0.0.2", "/m?seed=9&version=1.0.0")
    late = combined(START + PATIENCE + timedelta(seconds=1), "10.0.0.2", "/m?seed=9&version=1.0.0")
    back = combined(START + timedelta(hours=1), "10.0.0.1", "/m?seed=7&version=1.0.0")
    path.write_text(took + soon)
    assert evidence_of(path).quiet == FailureCount(failed=0, total=0)
    path.write_text(took + late)
    assert evidence_of(path).quiet == FailureCount(failed=1, total=1)
    path.write_text(took + back + late)
    evidence = evidence_of(path)
    assert evidence.quiet == FailureCount(failed=0, total=1)
    assert [(node.node, node.quiet, node.runs) for node in evidence.stuck] == [("10.0.0.1 7", False, "1.0.0")]


def test_the_guard_judges_what_the_report_shows(rollout: tuple[Path, Written]) -> None:
    with Logs([rollout[0]]) as logs:
        options = EvidenceOptions(patience=PATIENCE, since=START + timedelta(hours=20))
        assert tally_of(logs, UPDATE, options) == gather(logs, UPDATE, options).tally


def test_what_was_not_served_was_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(combined(START, "10.0.0.1", "/t?seed=7&version=1.0.0&target=1.1.0", status=404))
    evidence = evidence_of(path)
    assert (evidence.nodes, evidence.took, evidence.versions) == (1, 0, {"1.0.0": 1})


def test_an_empty_log_gives_empty_evidence(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("")
    evidence = evidence_of(path)
    assert (evidence.nodes, evidence.first, evidence.tally.overall) == (0, None, FailureCount())
    assert "no request that is understood" in page_of(evidence, patience=PATIENCE)
    assert evidence_of(path, update=replace(UPDATE, waves=Waves())).waves[0].start is None


HOSTILE = "<script>alert(1)</script>"


class _Page(HTMLParser):
    """Records what a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        wanted = ("src", "href", "xlink:href", "srcset", "data", "action")
        self.places += [value or "" for name, value in attrs if name in wanted or name.startswith("on")]


@pytest.fixture
def hostile_page(tmp_path: Path, rollout: tuple[Path, Written]) -> str:
    text = "%3Cscript%3Ealert(1)%3C/script%3E"
    path = tmp_path / "hostile.log"
    said = outcome(START, 9999, 3, code="boot-failed", cause=f"{HOSTILE}$x_{{1}}$")
    path.write_text(
        combined(START, HOSTILE, f"/t?seed=3&version={text}&target=1.1.0")
        + combined(START, "10.0.0.1", "/m?seed=3&version=$x_{1$")
        + combined(START, "10.0.0.1", "/m?seed=4&version=_hidden%0d%0a%00")
        + combined(START, "10.0.0.1", f"/r?{said.to_query()}")
    )
    return page_of(evidence_of(path, rollout[0]), patience=PATIENCE)


def test_the_page_runs_nothing_and_fetches_nothing_whatever_the_logs_hold(hostile_page: str) -> None:
    page = _Page()
    page.feed(hostile_page)
    assert HOSTILE not in hostile_page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in hostile_page
    assert not page.tags & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    assert {place[:1] for place in page.places} <= {"#"}
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", hostile_page)
    assert "default-src 'none'" in hostile_page


def test_a_version_has_one_colour_in_every_chart_and_in_the_table(rollout: tuple[Path, Written]) -> None:
    page = page_of(evidence_of(rollout[0]), patience=PATIENCE)
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 4, "each chart once for a desktop and once for a phone"
    assert ["var(--curve-1" in chart for chart in charts] == [False, False, True, True]
    assert all("var(--curve-0" in chart and "currentColor" in chart for chart in charts)
    dots = re.findall(r"background: var\(--curve-(\d)\)\"></span>([\d.]+)<", page)
    assert dots == [("0", "1.1.0"), ("1", "1.0.0")]


def test_the_page_is_made_for_dark_mode_phones_and_screen_readers(hostile_page: str) -> None:
    assert "prefers-color-scheme: dark" in hostile_page
    assert "max-width: 40rem" in hostile_page
    heads = re.findall(r"<th(?=[ >])[^>]*>", hostile_page)
    assert heads
    assert all('scope="col"' in head or 'scope="row"' in head for head in heads)
    assert "<clipPath " in hostile_page
    assert len({*re.findall(r"<clipPath id=\"([^\"]+)", hostile_page)}) == hostile_page.count("<clipPath ")


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's chromium")
def test_a_browser_has_nothing_to_complain_of(hostile_page: str, tmp_path: Path) -> None:
    """With the page's own policy, anything it tried to fetch or run would be an error on the console."""
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    chromium += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    for name, page, complains in (
        ("page.html", hostile_page, False),
        ("bad.html", hostile_page.replace("<h2>", '<img src="http://127.0.0.1:9/x.png"><h2>', 1), True),
    ):
        (tmp_path / name).write_text(page)
        ended = subprocess.run(
            [*chromium, (tmp_path / name).as_uri()], capture_output=True, text=True, timeout=600, check=True
        )
        assert "Progress against plan" in ended.stdout
        assert ("CONSOLE" in ended.stderr) == complains


@pytest.fixture
def repository(tmp_path: Path) -> SmallRepository:
    made = make_repository(tmp_path / "repo", versions=["1.0.0"])
    made.publish("1.1.0", waves="accelerated", start_at=START)
    return made


def _words(repository: SmallRepository, *words: str | Path) -> list[str]:
    return ["--repo", str(repository.folder), *map(str, words)]


def _hold(repository: SmallRepository, version: str = "1.1.0") -> Hold | None:
    update = manifest_of(repository.folder).find(VARIANT, ARCH, Version.parse(version))
    assert update
    return update.hold


def test_report_as_text_json_and_page(
    repository: SmallRepository,
    rollout: tuple[Path, Written],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, written = rollout
    page = tmp_path / "rollout.html"
    assert run(cli, _words(repository, "report", "1.1.0", path, "--page", page)) == 0
    out = capsys.readouterr().out
    assert f"{written.good} of 400 nodes run it" in out
    assert f"failed   {written.failed} nodes: boot-failed, kernel panic" in out
    assert "<!DOCTYPE html>" in page.read_text()
    assert run(cli, _words(repository, "report", "1.1.0", path, "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["failures"] == [{"code": "boot-failed", "cause": "kernel panic", "nodes": written.failed}]
    assert len(document["waves"]) == 5
    assert run(cli, _words(repository, "report", "9.0.0", path)) == 2
    assert run(cli, _words(repository, "report", "1.1.0", tmp_path / "missing")) == 2
    assert run(cli, _words(repository, "report", "1.1.0", path, "--page", tmp_path / "no" / "x.html")) == 2


def test_guard_holds_a_bad_release_signs_it_and_says_why(
    repository: SmallRepository, rollout: tuple[Path, Written], capsys: pytest.CaptureFixture[str]
) -> None:
    path, written = rollout
    before = tree_digest(repository.folder)
    assert run(cli, _words(repository, "guard", path, "--dry-run")) == 4
    assert "would hold 1.1.0" in capsys.readouterr().out
    assert tree_digest(repository.folder) == before
    assert run(cli, _words(repository, "guard", path, "--json")) == 4
    document = json.loads(capsys.readouterr().out)
    held = {item["version"]: item["step"] for item in document["releases"]}
    assert held["1.0.0"] is None
    assert held["1.1.0"]["action"] == "hold"
    hold = _hold(repository)
    assert hold
    assert hold.reason.startswith(
        f"guard: release: {written.failed} of {written.failed + written.good} nodes"
    )
    assert run(cli, _words(repository, "log")) == 0
    assert hold.reason in capsys.readouterr().out
    assert check(FolderSource(repository.folder), now=repository.now).findings == ()
    assert run(cli, _words(repository, "guard", path, "--version", "1.1.0")) == 3
    assert run(cli, _words(repository, "guard", path, *AT_ANY_AGE)) == 3


def test_guard_lets_a_healthy_release_go_on(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "access.log"
    write_log(path, replace(PLAN, bad_rate=0), until=timedelta(days=2))
    before = tree_digest(repository.folder)
    assert run(cli, _words(repository, "guard", path, *AT_ANY_AGE)) == 0
    assert "1.1.0 for synthetic on x86_64 may go on" in capsys.readouterr().out
    assert tree_digest(repository.folder) == before


def test_guard_notices_a_release_after_which_nobody_reports(
    repository: SmallRepository, tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    write_log(path, replace(PLAN, bad_rate=0.5), until=timedelta(days=1), hang=1)
    assert run(cli, _words(repository, "guard", path)) == 4
    hold = _hold(repository)
    assert hold
    assert "nodes fell silent" in hold.reason


def test_a_resume_starts_the_evidence_anew(
    repository: SmallRepository,
    rollout: tuple[Path, Written],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, _ = rollout
    assert run(cli, _words(repository, "guard", path)) == 4
    assert run(cli, _words(repository, "waves", "resume", "1.1.0")) == 0
    capsys.readouterr()
    assert run(cli, _words(repository, "guard", path, *AT_ANY_AGE)) == 6
    assert (
        "cannot judge 1.1.0 for synthetic on x86_64: no outcome was reported since" in capsys.readouterr().out
    )
    assert _hold(repository) is None
    later = tmp_path / "later.ndjson"
    soon = datetime.now(UTC) + timedelta(minutes=1)
    bad = [outcome(soon, number, number, code="boot-failed") for number in range(8)]
    later.write_text("".join(f"{line.to_json()}\n" for line in bad))
    assert run(cli, _words(repository, "guard", path, later)) == 4
    hold = _hold(repository)
    assert hold
    assert hold.reason.startswith("guard: release: 8 of 8 nodes failed")


def test_a_hold_that_was_resumed_for_another_release_does_not_matter(
    repository: SmallRepository, rollout: tuple[Path, Written]
) -> None:
    assert run(cli, _words(repository, "waves", "hold", "1.0.0", "--reason", "test")) == 0
    assert run(cli, _words(repository, "waves", "resume", "1.0.0")) == 0
    assert run(cli, _words(repository, "guard", rollout[0])) == 4


def _fresh(tmp_path: Path, *lines: str, name: str = "fresh.log") -> Path:
    path = tmp_path / name
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("name", ["empty", "only-noise", "no-outcome", "mostly-noise", "nobody", "too-old"])
def test_a_blind_guard_says_that_it_cannot_judge_and_why(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    now = datetime.now(UTC)
    took = combined(now, "10.0.0.1", "/t?seed=7&version=1.0.0&target=1.1.0")
    good = combined(now, "10.0.0.1", f"/r?{outcome(now, 1, 7).to_query()}")
    old = now - timedelta(days=3)
    lines, why = {
        "empty": ([], "the logs have no lines"),
        "only-noise": ([NOISE], "only 0 of 1 lines are understood"),
        "no-outcome": ([took], "no outcome was reported"),
        "mostly-noise": ([took, good, *[NOISE] * 5], "only 2 of 7 lines are understood"),
        "nobody": ([combined(now, "10.0.0.1", "/")], "no node was seen"),
        "too-old": ([combined(old, "10.0.0.1", f"/r?{outcome(old, 1, 7).to_query()}")], "the logs end on"),
    }[name]
    before = tree_digest(repository.folder)
    path = _fresh(tmp_path, *lines)
    assert run(cli, _words(repository, "guard", path, "--version", "1.1.0", "--json")) == 6
    (release,) = json.loads(capsys.readouterr().out)["releases"]
    assert (release["verdict"], release["hold"]) == ("cannot-judge", False)
    assert any(why in reason for reason in release["cannot_judge"])
    assert run(cli, _words(repository, "guard", path, "--version", "1.1.0")) == 6
    assert "may go on" not in capsys.readouterr().out
    assert tree_digest(repository.folder) == before


def test_proof_against_a_release_holds_it_however_old_or_noisy_the_logs_are(
    repository: SmallRepository, rollout: tuple[Path, Written], tmp_path: Path
) -> None:
    noise = _fresh(tmp_path, *[NOISE] * 50_000)
    assert run(cli, _words(repository, "guard", rollout[0], noise)) == 4


def test_there_is_nothing_to_judge_before_the_first_wave_and_after_the_last_node(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    repository.publish("1.2.0", waves="default", start_at=now + timedelta(days=1))
    path = _fresh(tmp_path, combined(now, "10.0.0.1", "/m?seed=7&version=1.1.0"))
    assert run(cli, _words(repository, "guard", path)) == 3
    out = capsys.readouterr().out
    assert "nothing to judge: its first wave starts on" in out
    assert out.count("nothing to judge: every node that was seen runs this version or a later one") == 2


def _node_query(node: int, version: str, **more: str) -> str:
    said = outcome(START, node, node)
    facts = {"node": said.node, "variant": VARIANT, "arch": ARCH} | more
    return urlencode({"seed": node, "version": version, **facts})


def test_nodes_of_another_variant_architecture_or_channel_are_not_of_this_release(tmp_path: Path) -> None:
    end = combined(START + 2 * PATIENCE, "10.9.9.9", f"/m?{_node_query(99, '1.0.0')}")
    queries = [
        _node_query(1, "1.0.0", target="1.1.0"),
        _node_query(2, "1.0.0", target="1.1.0", variant="metal"),
        _node_query(3, "1.0.0", target="1.1.0", arch="aarch64"),
        _node_query(4, "1.0.0", target="1.1.0", channel="stable"),
    ]
    path = _fresh(tmp_path, *[combined(START, "10.0.0.1", f"/t?{query}") for query in queries], end)
    assert (evidence_of(path).nodes, evidence_of(path).quiet) == (2, FailureCount(failed=1, total=1))
    assert evidence_of(path, channel="stable").quiet == FailureCount(failed=1, total=1)


def test_the_images_that_an_older_node_fetched_say_which_variant_it_runs(tmp_path: Path) -> None:
    vm, metal = (
        replace(
            UPDATE,
            variant=variant,
            images=Images(
                boot=f"os-{variant}-boot", root=f"os-{variant}-root+b.zst", hash=f"os-{variant}-hash"
            ),
        )
        for variant in ("vm", "metal")
    )
    paths = ["ab.os-vm-root+b.zst.index", "ab.os-metal-root%2Bb.zst.delta-1.0.0", "ab.os-metal-boot"]
    lines = [
        combined(START, address(number), f"/t/{path}?seed={number}&version=1.0.0&target=1.1.0")
        for number, path in enumerate(paths)
    ]
    path = _fresh(tmp_path, *lines, combined(START + 2 * PATIENCE, "10.9.9.9", "/"))
    siblings = (vm, metal)
    assert evidence_of(path, update=vm, siblings=siblings).quiet == FailureCount(failed=1, total=1)
    assert evidence_of(path, update=metal, siblings=siblings).quiet == FailureCount(failed=2, total=2)


def test_a_node_that_names_itself_is_the_same_node_after_its_address_changed(tmp_path: Path) -> None:
    took = combined(START, "10.0.0.1", f"/t?{_node_query(7, '1.0.0', target='1.1.0')}")
    later = START + timedelta(hours=1)
    runs = combined(later, "2001:db8::7", f"/m?{_node_query(7, '1.1.0')}")
    end = combined(START + 2 * PATIENCE, "10.9.9.9", "/")
    evidence = evidence_of(_fresh(tmp_path, took, runs, end))
    assert (evidence.nodes, evidence.unnamed, evidence.took, evidence.runs) == (1, 0, 1, 1)
    assert (evidence.quiet, evidence.stuck_count) == (FailureCount(failed=0, total=1), 0)


def test_an_outcome_from_a_collector_shows_that_a_silent_node_lives(tmp_path: Path) -> None:
    took = combined(START, "10.0.0.1", f"/t?{_node_query(7, '1.0.0', target='1.1.0')}")
    end = combined(START + 2 * PATIENCE, "10.9.9.9", "/")
    log = _fresh(tmp_path, took, end)
    assert evidence_of(log).quiet == FailureCount(failed=1, total=1)
    said = _fresh(tmp_path, outcome(START + timedelta(hours=1), 7, 7).to_json() + "\n", name="said.ndjson")
    assert evidence_of(log, said).quiet == FailureCount(failed=0, total=1)
    assert evidence_of(log, said, only_seen=True).tally.overall == FailureCount(failed=0, total=1)


@pytest.mark.parametrize("known_by", ["outcome", "request", "collector"])
def test_an_older_node_with_a_new_address_is_joined_with_its_first_half(
    tmp_path: Path, known_by: str
) -> None:
    later = START + timedelta(hours=1)
    said = outcome(later, 7, 7)
    second = {
        "outcome": combined(later, "100.64.0.7", f"/r?{said.to_query()}"),
        "request": combined(later, "100.64.0.7", "/m?seed=7&version=1.1.0"),
        "collector": f"{said.to_json()}\n",
    }[known_by]
    log = _fresh(
        tmp_path,
        combined(START, "10.0.0.7", "/t?seed=7&version=1.0.0&target=1.1.0"),
        combined(START, "10.0.0.8", "/t?seed=7&version=1.0.0&target=1.1.0"),
        second,
        combined(START + 2 * PATIENCE, "10.9.9.9", "/"),
    )
    evidence = evidence_of(log)
    assert evidence.quiet == FailureCount(failed=1, total=2), (
        "one new half stands for one old half, not for two"
    )
    assert (evidence.nodes, evidence.took) == (2, 2)


def test_a_half_that_was_seen_before_is_nobodys_second_half(tmp_path: Path) -> None:
    log = _fresh(
        tmp_path,
        combined(START - timedelta(hours=1), "100.64.0.7", "/m?seed=7&version=1.1.0"),
        combined(START, "10.0.0.7", "/t?seed=7&version=1.0.0&target=1.1.0"),
        combined(START + 2 * PATIENCE, "10.9.9.9", "/"),
    )
    assert evidence_of(log).quiet == FailureCount(failed=1, total=1)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--budget", "0%"], 2),
        (["--budget", "lots"], 2),
        (["--version", "9.0.0"], 2),
        (["--variant", "other"], 3),
    ],
)
def test_a_guard_that_cannot_judge_changes_nothing(
    repository: SmallRepository, rollout: tuple[Path, Written], words: list[str], status: int
) -> None:
    before = tree_digest(repository.folder)
    assert run(cli, _words(repository, "guard", rollout[0], *words)) == status
    assert tree_digest(repository.folder) == before


def _log_of_a_bad_channel(path: Path, channel: str) -> Path:
    """Ten nodes of a channel that all failed, and a hundred of no channel that did not."""
    said = [replace(outcome(START, node, node, code="boot-failed"), channel=channel) for node in range(10)]
    said += [outcome(START, node, node) for node in range(100, 200)]
    path.write_text("".join(f"{line.to_json()}\n" for line in said))
    return path


def test_guard_holds_the_release_of_one_channel(repository: SmallRepository, tmp_path: Path) -> None:
    assert add_channel(repository, "stable").pending is None
    assert run(cli, _words(repository, "promote", "1.1.0", "--from", "-", "--to", "stable")) == 0
    log = _log_of_a_bad_channel(tmp_path / "outcomes.ndjson", "stable")
    assert run(cli, _words(repository, "guard", log, "--channel", "stable")) == 4
    update = manifest_of(repository.folder, "stable").find(VARIANT, ARCH, V110)
    assert update
    assert update.hold


def test_the_guard_uses_the_brake_of_a_channel_that_it_cannot_sign(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_channel(repository, "lts", available=(True, True), threshold=2)
    assert run(cli, _words(repository, "promote", "1.1.0", "--from", "-", "--to", "lts")) == 0
    key = make_key(repository.folder, "brake")
    words = _words(repository, "brake", "add", "--channel", "lts", "--signer", "file2:keys/brake.pem")
    assert run(cli, words) == 0
    path = repository.folder / "repo.toml"
    kept = [line for line in path.read_text().splitlines(keepends=True) if "lts-2.pem" not in line]
    path.write_text("".join([*kept, f'{key.key.keyid} = "{key.uri}"\n']))
    log = _log_of_a_bad_channel(tmp_path / "outcomes.ndjson", "lts")
    assert run(cli, _words(repository, "guard", log, "--channel", "lts", "--dry-run")) == 4
    capsys.readouterr()
    assert run(cli, _words(repository, "guard", log, "--channel", "lts")) == 4
    assert "brake hold 1.1.0" in capsys.readouterr().out
    assert not (repository.folder / "pending").exists()
    (held,) = holds_of(repository.folder, "lts").releases
    assert held.version == V110
    assert run(cli, _words(repository, "guard", log, "--channel", "lts")) == 3, "it is held already"


def test_a_hold_that_waits_for_signatures_is_not_called_one(
    repository: SmallRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = add_channel(repository, "lts", available=(True, True), threshold=2)
    assert done.pending is None
    assert run(cli, _words(repository, "promote", "1.1.0", "--from", "-", "--to", "lts")) == 0
    path = repository.folder / "repo.toml"
    gone = f"{repository.folder}/keys/lts-2.pem"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "lts-2.pem" not in line and gone not in line))
    log = _log_of_a_bad_channel(tmp_path / "outcomes.ndjson", "lts")
    capsys.readouterr()
    assert run(cli, _words(repository, "guard", log, "--channel", "lts")) == 1
    out = capsys.readouterr().out
    assert "would hold 1.1.0" in out
    assert "NOT in force yet: 1 of 2 signatures" in out
    update = manifest_of(repository.folder, "lts").find(VARIANT, ARCH, V110)
    assert update
    assert update.hold is None
