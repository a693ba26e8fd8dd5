"""`make fuzz`: coverage-guided fuzzing of every parser of foreign bytes, starting with the kept corpus.

    make fuzz                                         # one minute for each target
    .venv/bin/python tools/fuzz.py --seconds 600 gpt http
    .venv/bin/python tools/fuzz.py --keep gpt         # add useful new inputs to the corpus

A finding is written to tests/fuzz/corpus/TARGET/, where `make test` fails on it until it is fixed; it is kept
there as a regression test. Inputs that only reach new code are in .cache/fuzz/TARGET/ until --keep selects
the smallest ones that together reach as much.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "repo-tools")]

_CACHE = ROOT / ".cache" / "fuzz"
_FLAGS = ("-rss_limit_mb=1024", "-timeout=20", "-print_final_stats=1", "-verbosity=0")
_CHILD = "--in-this-process="  # libFuzzer ignores arguments with two dashes and passes them on


def fuzz_here(name: str, flags: list[str]) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["signpost", "updog", "http.client", "urllib3"]):
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    again = f"{sys.executable} {__file__}"  # the command that libFuzzer starts in a shell when it merges
    atheris.Setup([again, f"{_CHILD}{name}", f"-max_len={target.longest}", *flags], target.check)
    atheris.Fuzz()


def run(name: str, flags: list[str]) -> tuple[int, str]:
    """Fuzz one target in its own process; return its exit status and libFuzzer's output."""
    command = [sys.executable, __file__, f"{_CHILD}{name}", *_FLAGS, *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    return ended.returncode, ended.stdout + ended.stderr


def fuzz(name: str, seconds: int) -> bool:
    """Fuzz a target for so many seconds and print the result. Return whether nothing was found."""
    kept, found = _folders(name)
    flags = [f"-max_total_time={seconds}", f"-artifact_prefix={kept}/found-", str(found), str(kept)]
    before = set(kept.iterdir())
    status, said = run(name, flags)
    executed = figures(said).get("number_of_executed_units", "?")
    findings = sorted(path.name for path in set(kept.iterdir()) - before)
    reached = len(list(found.iterdir()))
    print(f"{name:14} {executed:>9} inputs, {reached:4} reached new code, findings: {findings or 'none'}")
    if status:
        print("\n".join(said.splitlines()[-40:]))
    return status == 0


def figures(said: str) -> dict[str, str]:
    """Return libFuzzer's final figures by name."""
    lines = (line.removeprefix("stat::").partition(":") for line in said.splitlines() if line[:6] == "stat::")
    return {name.strip(): value.strip() for name, _, value in lines}


def keep(name: str) -> None:
    """Add to a target's corpus the smallest inputs that reach code which it does not reach yet."""
    kept, found = _folders(name)
    status, said = run(name, ["-merge=1", str(kept), str(found)])
    print(f"{name:14} {len(list(kept.iterdir()))} inputs kept")
    if status:
        raise SystemExit(said)


def _folders(name: str) -> tuple[Path, Path]:
    """Return the corpus of a target, which includes its seeds, and the folder of new inputs."""
    from tests.fuzz.targets import CORPUS, TARGETS

    kept, found = CORPUS / name, _CACHE / name
    kept.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (kept / f"seed-{number}").write_bytes(seed)
    return kept, found


def main() -> int:
    """Fuzz, or keep useful new inputs."""
    if sys.argv[1:] and sys.argv[1].startswith(_CHILD):
        fuzz_here(sys.argv[1].removeprefix(_CHILD), sys.argv[2:])
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: %(default)s)")
    parser.add_argument(
        "--keep", action="store_true", help="do not fuzz; add useful new inputs to the corpus"
    )
    said = parser.parse_args()
    if unknown := set(said.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = said.targets or list(TARGETS)
    if said.keep:
        for name in names:
            keep(name)
        return 0
    return 0 if all([fuzz(name, said.seconds) for name in names]) else 1  # noqa: C419 - all of them, always


if __name__ == "__main__":
    sys.exit(main())
