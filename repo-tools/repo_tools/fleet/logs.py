"""Access logs and outcome lines as tables: what nodes asked for, and what they said became of an update.

Rules:

* a file may be an nginx or Apache log (``combined`` or ``common``), a CloudFront standard log, an S3 server
  access log, or lines of JSON outcomes, packed with gzip or not; its first line tells which;
* DuckDB reads, splits and counts; no line passes through Python; what does not fit in memory goes to disk;
* every line is hostile: one that is not understood, too long or not UTF-8 is counted, never guessed at;
* a node is not named in a request: it is its address and its seed. Two nodes behind one address with one seed
  look like one, a node whose address changes looks like two. Outcome lines carry a pseudonym of their own;
* an outcome is read as :class:`updog.update_metadata.outcomes.OutcomeLine` reads it, which a test compares;
  one in a request counts only where the server answered 2xx or 3xx, as the node itself has it.

Nothing here is proof: anyone who can reach the server can write into its log.
"""

from __future__ import annotations

import gzip
import re
import tempfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import duckdb

from repo_tools.errors import LogError
from updog.update_metadata.outcomes import COUNTS, FORMAT, MARKER, MAX_LINE_BYTES, MAX_NAME, MEMBERS
from updog.update_metadata.seeds import MAX_SEED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_FIRST_BYTES = 65_536
"""Of a file's beginning, read to tell what it is."""

_SAFE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}  # never a network

_LINES = (
    "read_csv(?, columns = {'line': 'VARCHAR'}, delim = '\x1f', header = false, quote = '', escape = '',"
    " auto_detect = false, ignore_errors = true, strict_mode = false)"
)

_REQUEST = r'"[A-Z]+ ([^ "?]*)(?:\?([^ "]*))? [^"]*" ([0-9]{3})'
_COMBINED = rf"^(\S+) \S+ \S+ \[([^\]]+)\] {_REQUEST} ([0-9]+|-)"
_S3 = rf"^\S+ \S+ \[([^\]]+)\] (\S+) \S+ \S+ \S+ \S+ {_REQUEST} \S+ ([0-9]+|-)"

_FIELDS = {
    "moment": ("date", "time"),
    "client": ("c-ip",),
    "path": ("cs-uri-stem",),
    "query": ("cs-uri-query",),
    "status": ("sc-status",),
    "size": ("sc-bytes",),
}
"""Columns of ``requests`` and the fields of a CloudFront log they are made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """How much was read: lines in all, and those that say nothing we know."""

    read: int
    strange: int


class Logs:
    """Logs, read into memory; close it, or use it in a ``with`` block.

    ``database`` has the tables ``requests`` (client, moment, path, query, status, size), ``sightings`` (node,
    seed, moment, version, path, target: only where it was served) and ``outcomes`` (node, seed, moment,
    variant, arch, channel, code, cause, target, sighting: the node's name in ``sightings``). Moments are
    seconds since 1970.

    Args:
        files: the logs.

    Raises:
        LogError: a file cannot be read, or is of no kind that is known.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.database = duckdb.connect(config=dict(_SAFE))
        self.database.execute("SET temp_directory = ?", [tempfile.gettempdir()])
        self._prepare()
        try:
            read = [self._load(file) for file in files]
        except duckdb.Error as error:
            raise LogError(f"the logs cannot be read: {str(error).splitlines()[0]}") from error
        self._derive()
        self.lines = Lines(
            read=sum(lines.read for lines in read), strange=sum(lines.strange for lines in read)
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the memory back."""
        self.database.close()

    def _prepare(self) -> None:
        self.database.execute(
            "CREATE TABLE requests (client VARCHAR, moment DOUBLE, path VARCHAR, query VARCHAR,"
            " status INTEGER, size BIGINT)"
        )
        self.database.execute("CREATE TABLE reports (line VARCHAR, sighting VARCHAR, members VARCHAR[])")

    def _load(self, file: Path) -> Lines:
        """Read one file into ``requests`` or ``reports``."""
        first = _first_line(file)
        kind = _kind_of(first, file)
        before = self._rows()
        self.database.execute(f"CREATE OR REPLACE TEMP TABLE raw AS SELECT line FROM {_LINES}", [[str(file)]])
        if kind == "json":
            self._load_json()
        elif kind == "cloudfront":
            self._load_cloudfront(first)
        else:
            self._load_text(kind)
        (read,) = self._one("SELECT count(*) FROM raw WHERE line NOT LIKE '#%' AND line <> ''")
        self.database.execute("DROP TABLE raw")
        return Lines(read=read, strange=read - (self._rows() - before))

    def _rows(self) -> int:
        (requests,), (reports,) = (
            self._one(f"SELECT count(*) FROM {name}") for name in ("requests", "reports")
        )
        return int(requests + reports)

    def _one(self, query: str) -> tuple[int, ...]:
        return self.database.execute(query).fetchone() or ()

    def _load_text(self, kind: str) -> None:
        names = ["client", "moment"] if kind == "combined" else ["moment", "client"]
        names += ["path", "query", "status", "size"]
        self.database.execute(
            # materialized, or the pattern would be matched once for the condition and once for the columns
            f"WITH parts AS MATERIALIZED (SELECT regexp_extract(line, ?, {names}) AS x FROM raw)"
            " INSERT INTO requests SELECT x.client, epoch(try_strptime(x.moment, '%d/%b/%Y:%H:%M:%S %z')),"
            " x.path, x.query, x.status::INTEGER, coalesce(try_cast(x.size AS BIGINT), 0)"
            " FROM parts WHERE x.client <> '' AND try_strptime(x.moment, '%d/%b/%Y:%H:%M:%S %z') IS NOT NULL",
            [_COMBINED if kind == "combined" else _S3],
        )

    def _load_cloudfront(self, header: str) -> None:
        fields = header.split(":", 1)[1].split()
        places = {
            name: "|| ' ' ||".join(f"x[{fields.index(part) + 1}]" for part in parts)
            for name, parts in _FIELDS.items()
        }
        moment = f"epoch(try_strptime({places['moment']}, '%Y-%m-%d %H:%M:%S'))"
        self.database.execute(
            f"INSERT INTO requests SELECT {places['client']}, {moment}, {places['path']},"
            f" CASE {places['query']} WHEN '-' THEN '' ELSE {places['query']} END,"
            f" try_cast({places['status']} AS INTEGER), coalesce(try_cast({places['size']} AS BIGINT), 0)"
            " FROM (SELECT string_split(line, '\t') AS x FROM raw WHERE line NOT LIKE '#%')"
            f" WHERE {moment} IS NOT NULL AND {places['status']} IS NOT NULL"
        )

    def _load_json(self) -> None:
        names = "[" + ", ".join(f"json_extract_string(line, '$.{member.name}')" for member in MEMBERS) + "]"
        self.database.execute(
            f"INSERT INTO reports SELECT line, NULL, {names} FROM raw"
            f" WHERE json_valid(line) AND strlen(line) <= {MAX_LINE_BYTES}"
            f" AND len(list_distinct(json_keys(line))) = len(json_keys(line))"
            f" AND json_extract_string(line, '$.{MARKER}') = '{FORMAT}'"
        )

    def _derive(self) -> None:
        """Make ``sightings`` and ``outcomes`` of what was read."""
        self.database.execute(
            "CREATE TABLE sightings AS WITH parts AS MATERIALIZED (SELECT client, moment, path, status,"
            f" regexp_extract(query, '(?:^|&)seed=([0-9]{{1,4}})(?:&|$)', 1) AS seed,"
            f" {_parameter('version')} AS version, {_parameter('target')} AS target"
            " FROM requests WHERE contains(query, 'seed=')) SELECT client || ' ' || seed AS node,"
            " seed::SMALLINT AS seed, moment, version, path,"
            " CASE WHEN status BETWEEN 200 AND 399 THEN target END AS target FROM parts"
            f" WHERE seed <> '' AND seed::SMALLINT < {MAX_SEED}"
        )
        self._add_reports_of_requests()
        self._add_outcomes()

    def _add_reports_of_requests(self) -> None:
        names = "list_transform(string_split(query, '&'), lambda pair: split_part(pair, '=', 1))"
        values = "[" + ", ".join(_parameter(member.name) for member in MEMBERS) + "]"
        self.database.execute(
            f"INSERT INTO reports SELECT query, client || ' ' || {_parameter('seed')}, {values} FROM requests"
            f" WHERE contains(query, '{MARKER}=') AND {_parameter(MARKER)} = '{FORMAT}'"
            f" AND status BETWEEN 200 AND 399 AND strlen(query) <= {MAX_LINE_BYTES}"
            f" AND len(list_distinct({names})) = len({names})"
        )

    def _add_outcomes(self) -> None:
        """Keep the reports whose members are as the format has them."""
        place = {member.name: f"members[{number}]" for number, member in enumerate(MEMBERS, start=1)}
        self.database.execute(
            f"CREATE TABLE outcomes AS SELECT {place['node']} AS node, {place['seed']}::SMALLINT AS seed,"
            f" epoch(try_cast({place['time']} AS TIMESTAMPTZ)) AS moment, {place['variant']} AS variant,"
            f" {place['arch']} AS arch, {place['channel']} AS channel,"
            f" {place['code']} AS code, {place['cause']} AS cause,"
            f" {place['to']} AS target, sighting FROM reports WHERE regexp_full_match({place['node']},"
            f" '[0-9a-f]{{32}}') AND try_cast({place['seed']} AS SMALLINT) BETWEEN 0 AND {MAX_SEED - 1}"
            f" AND try_cast({place['time']} AS TIMESTAMPTZ) IS NOT NULL"
            + "".join(
                f" AND length({place[name]}) BETWEEN 1 AND {MAX_NAME}" for name in ("variant", "arch", "code")
            )
            + f" AND {place['to']} IS NOT NULL"
        )


def counted(code: str = "code") -> str:
    """Return the SQL that says of a code's column what it counts as: good, bad or neither."""
    whens = " ".join(f"WHEN '{known}' THEN '{count.value}'" for known, count in COUNTS.items())
    return f"CASE {code} {whens} ELSE 'neither' END"


def _parameter(name: str) -> str:
    """Return the SQL of a query's parameter, decoded; NULL where it is missing or cannot be decoded."""
    raw = f"regexp_extract(query, '(?:^|&){name}=([^&]*)', 1)"
    decoded = f"TRY(url_decode(replace({raw}, '+', ' ')))"  # TRY is slow, and few queries need it
    return f"nullif(CASE WHEN regexp_matches(query, '[%+]') THEN {decoded} ELSE {raw} END, '')"


def _first_line(file: Path) -> str:
    """Return the line of a file that tells its kind. Raises LogError."""
    try:
        with file.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as content:
            head = content.read(MAX_FIRST_BYTES).decode(errors="replace")
    except (OSError, EOFError, zlib.error) as error:
        raise LogError(f"cannot read {file}: {error}") from error
    lines = [line for line in head.splitlines() if line and not line.startswith("#Version")]
    return lines[0] if lines else ""


def _kind_of(line: str, file: Path) -> str:
    """Return what a file is: combined, s3, cloudfront or json. Raises LogError."""
    if line.startswith("#Fields:"):
        missing = [part for parts in _FIELDS.values() for part in parts if part not in line.split()]
        if missing:
            raise LogError(f"{file} is a log without the fields {', '.join(missing)}")
        return "cloudfront"
    if line.startswith("{") or not line:
        return "json"
    for kind, pattern in (("combined", _COMBINED), ("s3", _S3)):
        if re.match(pattern, line):
            return kind
    raise LogError(f"{file} is no access log that is known; it begins: {line[:80]!r}")
