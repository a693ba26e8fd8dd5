"""Access logs and outcome lines as tables: what nodes requested, and the outcomes of updates they reported.

Rules:

* a line can be of an nginx or Apache log (``combined`` or ``common``, with or without the virtual host), of a
  CloudFront standard log, of an S3 server access log, or a JSON object: a request with the names of nginx's
  variables (:data:`JSON_NAMES`), or an outcome line. Every line says itself which; one file may mix them;
* :mod:`repo_tools.fleet.log_files` unpacks files and makes them valid UTF-8;
* DuckDB splits and counts; no line of a clean file passes through Python; what does not fit in memory goes to
  disk;
* every line is untrusted: a line that is not understood is counted, never guessed at. A file is refused only
  if not one of its lines has the shape of a known log;
* a request of a node names it by the pseudonym of the outcome lines. Older nodes do not send it: then address
  and seed together identify the node, unless another request of this address and seed names it;
* an outcome is read as :class:`updog.update_metadata.outcomes.OutcomeLine` reads it (a test compares them);
  one in a request counts only if the server answered 2xx or 3xx: only then the node regards it as delivered.

Nothing here is proof: anyone who can reach the server can write into its log.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import duckdb

from repo_tools.errors import LogError
from repo_tools.fleet.log_files import plain_text
from updog.update_metadata.outcomes import COUNTS, FORMAT, MARKER, MAX_LINE_BYTES, MAX_NAME, MEMBERS
from updog.update_metadata.seeds import MAX_SEED

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAFE = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}  # never a network

_LINES = (
    "read_csv(?, columns = {'line': 'VARCHAR'}, delim = '\x1f', header = false, quote = '', escape = '',"
    " auto_detect = false, ignore_errors = true, strict_mode = false, compression = 'none')"
)

_REQUEST = r'"[A-Z]+ ([^ "?]*)(?:\?([^ "]*))? [^"]*" ([0-9]{3})'
_COMBINED = rf"^(?:[^\s:]+:[0-9]+ )?(\S+) \S+ \S+ \[([^\]]+)\] {_REQUEST} ([0-9]+|-)"
_S3 = rf"^\S+ \S+ \[([^\]]+)\] (\S+) \S+ \S+ \S+ \S+ {_REQUEST} \S+ ([0-9]+|-)"
_S3_START = r"^\S+ \S+ \["
_CLOUDFRONT_START = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\t"
_SHAPE = rf"^\S+ \S+ (\S+ ){{0,2}}\[[^\]]+\] |{_CLOUDFRONT_START}"
"""The beginning of a line of a log, whatever was requested in it: a scanner's line has it too."""

_DOCKER = '{"log":"'
"""A line that Docker's json-file driver wrapped begins like this."""

_FIELDS = {
    "moment": ("date", "time"),
    "client": ("c-ip",),
    "path": ("cs-uri-stem",),
    "query": ("cs-uri-query",),
    "status": ("sc-status",),
    "size": ("sc-bytes",),
}
"""Columns of ``requests``, and the fields of a CloudFront log that they come from."""

JSON_NAMES = {
    "client": ("remote_addr", "client_ip", "remote_ip", "clientip", "request.remote_ip", "c-ip"),
    "moment": ("time_iso8601", "time_local", "msec", "time", "timestamp", "@timestamp", "ts"),
    "date": ("date",),
    "request": ("request",),
    "url": ("request_uri", "uri", "url", "request.uri", "path", "cs-uri-stem"),
    "query": ("args", "query_string", "query"),
    "doubled": ("cs-uri-query",),
    "status": ("status", "status_code", "sc-status"),
    "size": ("body_bytes_sent", "bytes_sent", "bytes", "size", "sc-bytes"),
}
"""Members of a JSON line that say the same thing: nginx's variables first, then Caddy's and CloudFront's."""


_PLACED = ("version", "target", "variant", "arch", "channel")
"""Parameters of a request that say what its node runs, takes and follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """The number of lines read, and of those not understood."""

    read: int
    not_understood: int


class Logs:
    """Logs in a database; close it, or use it in a ``with`` block.

    ``database`` has the tables ``requests`` (client, moment, path, query, status, size), ``sightings`` (node,
    named: by its pseudonym, seed, moment, version, path, target: only if it was served, variant, arch,
    channel) and ``outcomes`` (node, seed, moment, variant, arch, channel, code, cause, target, sighting:
    address and seed, as ``sightings`` names a node without a pseudonym). Moments are seconds since 1970.

    Args:
        files: the logs.

    Raises:
        LogError: a file cannot be read, or has an unknown format.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.database = duckdb.connect(config=dict(_SAFE))
        self.database.execute("SET temp_directory = ?", [tempfile.gettempdir()])
        self.database.execute("SET TimeZone = 'UTC'")  # for times without a zone
        self.database.execute(
            "CREATE TABLE requests (client VARCHAR, moment DOUBLE, path VARCHAR, query VARCHAR,"
            " status INTEGER, size BIGINT)"
        )
        self.database.execute("CREATE TABLE reports (line VARCHAR, sighting VARCHAR, members VARCHAR[])")
        with tempfile.TemporaryDirectory(prefix="repo-tools-logs-") as folder:
            try:
                read = [
                    self._load(file, plain_text(file, Path(folder), number))
                    for number, file in enumerate(files)
                ]
            except duckdb.Error as error:
                raise LogError(f"the logs cannot be read: {str(error).splitlines()[0]}") from error
        self._create_sightings()
        self._add_reports_of_requests()
        self._create_outcomes()
        self.lines = Lines(
            read=sum(lines.read for lines in read), not_understood=sum(lines.not_understood for lines in read)
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the database."""
        self.database.close()

    def _load(self, file: Path, plain: Path) -> Lines:
        """Read one file, whose lines are in ``plain``, into ``requests`` and ``reports``."""
        before = self._rows()
        unwrapped = (
            f"CASE WHEN starts_with(line, '{_DOCKER}') AND json_valid(line)"
            " THEN rtrim(json_extract_string(line, '$.log'), chr(10)) ELSE line END"
        )
        self.database.execute(
            f"CREATE OR REPLACE TEMP TABLE raw AS SELECT {unwrapped} AS line FROM {_LINES}", [[str(plain)]]
        )
        self._load_text()
        self._load_cloudfront(file)
        self._load_json()
        (read,) = self._one("SELECT count(*) FROM raw WHERE line NOT LIKE '#%' AND line <> ''")
        understood = self._rows() - before
        if read and not understood:
            self._require_shape(file)
        self.database.execute("DROP TABLE raw")
        return Lines(read=read, not_understood=read - understood)

    def _require_shape(self, file: Path) -> None:
        """Refuse a file without any line of a known shape. Raises LogError."""
        (shaped,) = self._one(
            f"SELECT count(*) FROM raw WHERE regexp_matches(line, '{_SHAPE}') OR starts_with(line, '{{')"
        )
        if not shaped:
            row = self.database.execute("SELECT line[:80] FROM raw WHERE line <> '' LIMIT 1").fetchone()
            raise LogError(f"{file} is not in a known log format; it begins: {row[0] if row else ''!r}")

    def _rows(self) -> int:
        (requests,), (reports,) = (
            self._one(f"SELECT count(*) FROM {name}") for name in ("requests", "reports")
        )
        return int(requests + reports)

    def _one(self, query: str) -> tuple[int, ...]:
        return self.database.execute(query).fetchone() or ()

    def _load_text(self) -> None:
        """Read the lines of nginx, Apache and S3."""
        moment = "try_strptime(x.moment, '%d/%b/%Y:%H:%M:%S %z')"
        for pattern, first, is_s3 in (
            (_COMBINED, ["client", "moment"], "NOT"),
            (_S3, ["moment", "client"], ""),
        ):
            self.database.execute(
                # materialized: otherwise the pattern would be matched twice, in the condition and the columns
                "WITH parts AS MATERIALIZED (SELECT regexp_extract(line, ?,"
                f" {[*first, 'path', 'query', 'status', 'size']}) AS x FROM raw"
                f" WHERE {is_s3} regexp_matches(line, '{_S3_START}'))"
                f" INSERT INTO requests SELECT x.client, epoch({moment}), x.path, x.query,"
                " x.status::INTEGER, coalesce(try_cast(x.size AS BIGINT), 0) FROM parts"
                f" WHERE x.client <> '' AND {moment} IS NOT NULL",
                [pattern],
            )

    def _load_cloudfront(self, file: Path) -> None:
        """Read the lines of CloudFront, each by the ``#Fields:`` line above it. Raises LogError."""
        headers = self.database.execute(
            "SELECT line, min(rowid) FROM raw WHERE starts_with(line, '#Fields:') GROUP BY line ORDER BY 2"
        ).fetchall()
        for header, _ in headers:
            fields = header.split(":", 1)[1].split()
            if missing := [part for parts in _FIELDS.values() for part in parts if part not in fields]:
                raise LogError(f"{file} is a CloudFront log without the fields {', '.join(missing)}")
            column = {
                name: "|| ' ' ||".join(f"x[{fields.index(part) + 1}]" for part in parts)
                for name, parts in _FIELDS.items()
            }
            source = "raw"
            if len(headers) > 1:  # logs with different fields in one file
                source = (
                    "(SELECT line, last_value(CASE WHEN starts_with(line, '#Fields:') THEN line END"
                    " IGNORE NULLS) OVER (ORDER BY rowid) AS header FROM raw)"
                )
            moment = f"epoch(try_strptime({column['moment']}, '%Y-%m-%d %H:%M:%S'))"
            self.database.execute(
                f"INSERT INTO requests SELECT {column['client']}, {moment}, {column['path']},"
                f" CASE {column['query']} WHEN '-' THEN '' ELSE {_undoubled(column['query'])} END,"
                f" try_cast({column['status']} AS INTEGER), coalesce(try_cast({column['size']} AS BIGINT), 0)"
                f" FROM (SELECT string_split(line, '\t') AS x FROM {source}"
                f" WHERE regexp_matches(line, '{_CLOUDFRONT_START}')"
                + (" AND header = ?)" if len(headers) > 1 else ")")
                + f" WHERE {moment} IS NOT NULL AND {column['status']} IS NOT NULL",
                [header] if len(headers) > 1 else [],
            )

    def _load_json(self) -> None:
        """Read the lines that are JSON objects: outcome lines, and requests."""
        if self._one("SELECT count(*) FROM raw WHERE starts_with(line, '{')") == (0,):
            return
        self.database.execute(
            "CREATE OR REPLACE TEMP TABLE objects AS SELECT line, json_exists(line, ?) AS reported FROM raw"
            " WHERE starts_with(line, '{') AND json_valid(line)",
            [f"$.{MARKER}"],
        )
        names = "[" + ", ".join(f"json_extract_string(line, '$.{member.name}')" for member in MEMBERS) + "]"
        self.database.execute(
            f"INSERT INTO reports SELECT line, NULL, {names} FROM objects"
            f" WHERE reported AND strlen(line) <= {MAX_LINE_BYTES}"
            f" AND len(list_distinct(json_keys(line))) = len(json_keys(line))"
            f" AND json_extract_string(line, '$.{MARKER}') = '{FORMAT}'"
        )
        paths = [_json_path(name) for names in JSON_NAMES.values() for name in names]
        value: dict[str, str] = {}
        for column, names_of_column in JSON_NAMES.items():
            places = (f"x[{paths.index(_json_path(name)) + 1}]" for name in names_of_column)
            value[column] = f"coalesce({', '.join(places)}, '')"
        moment = _moment_of_json(value["date"], value["moment"])
        self.database.execute(
            "INSERT INTO requests SELECT client, moment, split_part(url, '?', 1), CASE WHEN"
            " contains(url, '?') THEN substr(url, instr(url, '?') + 1) ELSE query END, status, size FROM ("
            f" SELECT {value['client']} AS client, {moment} AS moment,"
            f" coalesce(nullif(regexp_extract({value['request']}, '^[A-Z]+ ([^ ]+)', 1), ''), {value['url']})"
            f" AS url, coalesce(nullif({value['query']}, ''), {_undoubled(value['doubled'])}) AS query,"
            f" try_cast({value['status']} AS INTEGER) AS status,"
            f" coalesce(try_cast({value['size']} AS BIGINT), 0) AS size"
            " FROM (SELECT json_extract_string(line, ?) AS x FROM objects WHERE NOT reported))"
            " WHERE client <> '' AND url <> '' AND moment IS NOT NULL AND status IS NOT NULL",
            [paths],
        )

    def _create_sightings(self) -> None:
        self.database.execute(
            "CREATE TEMP TABLE parts AS SELECT client, moment, path, status,"
            " regexp_extract(query, '(?:^|&)seed=([0-9]{1,4})(?:&|$)', 1) AS seed,"
            " CASE WHEN contains(query, 'node=') THEN"
            " nullif(regexp_extract(query, '(?:^|&)node=([0-9a-f]{32})(?:&|$)', 1), '') END AS pseudonym,"
            + ", ".join(f"{_parameter(name)} AS {name}" for name in _PLACED)
            + " FROM requests WHERE contains(query, 'seed=')"
        )
        self.database.execute(
            "CREATE TABLE sightings AS WITH known AS (SELECT client, seed, min(pseudonym) AS name FROM parts"
            " WHERE pseudonym IS NOT NULL GROUP BY client, seed HAVING min(pseudonym) = max(pseudonym))"
            " SELECT coalesce(pseudonym, name, client || ' ' || seed) AS node,"
            " coalesce(pseudonym, name) IS NOT NULL AS named, seed::SMALLINT AS seed, moment, version, path,"
            " CASE WHEN status BETWEEN 200 AND 399 THEN target END AS target, variant, arch, channel"
            " FROM parts LEFT JOIN known USING (client, seed)"
            f" WHERE seed <> '' AND seed::SMALLINT < {MAX_SEED}"
        )
        self.database.execute("DROP TABLE parts")

    def _add_reports_of_requests(self) -> None:
        names = "list_transform(string_split(query, '&'), lambda pair: split_part(pair, '=', 1))"
        values = "[" + ", ".join(_parameter(member.name) for member in MEMBERS) + "]"
        self.database.execute(
            f"INSERT INTO reports SELECT query, client || ' ' || {_parameter('seed')}, {values} FROM requests"
            f" WHERE contains(query, '{MARKER}=') AND {_parameter(MARKER)} = '{FORMAT}'"
            f" AND status BETWEEN 200 AND 399 AND strlen(query) <= {MAX_LINE_BYTES}"
            f" AND len(list_distinct({names})) = len({names})"
        )

    def _create_outcomes(self) -> None:
        """Keep the reports whose members are valid in the outcome format."""
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
    """Return the SQL for how the code in this column counts: good, bad or neither."""
    whens = " ".join(f"WHEN '{known}' THEN '{count.value}'" for known, count in COUNTS.items())
    return f"CASE {code} {whens} ELSE 'neither' END"


def _parameter(name: str) -> str:
    """Return the SQL of a decoded query parameter; NULL if it is missing or cannot be decoded."""
    raw = f"regexp_extract(query, '(?:^|&){name}=([^&]*)', 1)"
    decoded = f"TRY(url_decode(replace({raw}, '+', ' ')))"  # TRY is slow, and few queries need it
    value = f"nullif(CASE WHEN regexp_matches(query, '[%+]') THEN {decoded} ELSE {raw} END, '')"
    return (
        f"CASE WHEN contains(query, '{name}=') THEN {value} END"  # a pattern is slow, and most are not there
    )


def _undoubled(query: str) -> str:
    """Return the SQL of a query as it was requested: CloudFront writes each ``%`` of it as ``%25``.

    Other writers of the format do not: what would not be a valid encoding afterwards is left as it is.
    """
    undone = f"replace({query}, '%25', '%')"
    invalid = f"regexp_matches({undone}, '%(?:[^0-9A-Fa-f]|.[^0-9A-Fa-f]|.?$)')"
    return f"CASE WHEN NOT contains({query}, '%25') OR {invalid} THEN {query} ELSE {undone} END"


def _json_path(name: str) -> str:
    """Return the JSON path of a member; a dot separates the names of nested members."""
    return "$" + "".join(f'."{part}"' for part in name.split("."))


def _moment_of_json(date: str, text: str) -> str:
    """Return the SQL of a time (seconds since 1970) that is a number, RFC 3339, or as nginx writes it."""
    whole = f"trim({date} || ' ' || {text})"
    number = f"try_cast({text} AS DOUBLE)"
    return (
        f"coalesce(CASE WHEN {number} > 1e11 THEN {number} / 1000 ELSE {number} END,"
        f" epoch(try_strptime({text}, '%d/%b/%Y:%H:%M:%S %z')), epoch(try_cast({whole} AS TIMESTAMPTZ)))"
    )
