"""The reference of the supported Python API: from `__all__`, signatures, docstrings and example scripts.

Rules:

* supported is what a module of :data:`GROUPS` names in its `__all__`, and nothing else;
* signatures and docstrings are cut out of the source, so that they look here as they do there;
* an example is a file that a test runs; lines that begin with ``# →`` are what it prints there.
"""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import dataclass
from inspect import cleandoc
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parent.parent / "docs/examples"
_DEFINITION = re.compile(r"@|class |def ")
_ROLES = re.compile(r":\w+:`~?([^`]+)`")
_HEAD = """# Python API

What another program can import. Supported are the modules below, and in them the names listed here (their
`__all__`): a release that changes one of them says so in CHANGELOG.md. Everything else can change at any
time. All three packages carry type information (`py.typed`).

* Values are frozen; a method called `with_…` returns another value.
* Times are aware `datetime` objects; sizes and offsets are bytes unless the name says sectors or LBA.
* An error that an operator can act on is a `signpost.errors.ToolError`: it has a `code`, a `status` and a
  `next_step` ([the whole list](exit-status.md)). A refusal has changed nothing.
* What decides (`gpt`, `gptprio`, `sets`, `state`, `select`, `waves`, `manifest`, `index`, `plan`) uses no
  file, network or clock; the caller does.

Each example is a file of [docs/examples](../examples/) that a test runs; `# →` marks what it prints.

"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Modules that are used together.

    Attributes:
        title: the heading. example: a file of :data:`EXAMPLES`. modules: by their dotted names.
    """

    title: str
    example: str
    modules: tuple[str, ...]


GROUPS = (
    Group(title="Partition tables", example="partition_table.py", modules=("signpost.gpt",)),
    Group(
        title="Boot flags",
        example="boot_flags.py",
        modules=("signpost.gptprio", "signpost.sets", "signpost.state", "signpost.errors"),
    ),
    Group(title="A disk with two slots", example="disk.py", modules=("signpost.app", "signpost.medium")),
    Group(
        title="The manifest",
        example="manifest.py",
        modules=(
            "updog.update_metadata.manifest",
            "updog.update_metadata.by_image",
            "updog.update_metadata.content",
            "updog.update_metadata.version",
            "updog.update_metadata.errors",
        ),
    ),
    Group(
        title="Waves",
        example="waves.py",
        modules=("updog.update_metadata.waves", "updog.update_metadata.seeds"),
    ),
    Group(title="Which update a node takes", example="choose_update.py", modules=("updog.select",)),
    Group(
        title="Image index and plan",
        example="image_plan.py",
        modules=("updog.image.index", "updog.image.plan"),
    ),
    Group(
        title="Publish and validate",
        example="publish_and_check.py",
        modules=(
            "repo_tools.ceremony.new_repository",
            "repo_tools.releases.release",
            "repo_tools.releases.publish",
            "repo_tools.upkeep.check",
            "repo_tools.trust.source",
            "repo_tools.trust.findings",
        ),
    ),
    Group(
        title="Simulate a roll-out",
        example="simulate_rollout.py",
        modules=("repo_tools.fleet.simulate",),
    ),
)


def page() -> str:
    """Return the page, without the line that says that it is generated."""
    contents = "".join(_line(group) for group in GROUPS)
    return _HEAD + contents + "".join(_group(group) for group in GROUPS)


def _line(group: Group) -> str:
    """Return a group's line of the table of contents."""
    modules = ", ".join(f"[`{name}`](#{name.replace('.', '')})" for name in group.modules)
    return f"* {group.title}: {modules}\n"


def _group(group: Group) -> str:
    script = (EXAMPLES / group.example).read_text(encoding="utf-8")
    example = f"Example, [{group.example}](../examples/{group.example}):\n\n```python\n{script}```\n"
    return f"\n## {group.title}\n\n{example}" + "".join(_module(name) for name in group.modules)


def _module(name: str) -> str:
    module = importlib.import_module(name)
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    found = dict(_Source(source).definitions())
    entries = _spaced([found[each] for each in module.__all__])
    prose = _plain(cleandoc(module.__doc__ or "")).replace("``", "`")
    return f"\n### `{name}`\n\n{prose}\n\n```python\n{entries}\n```\n"


def _spaced(entries: list[str]) -> str:
    """Return definitions one after the other: two empty lines around classes and functions, else one."""
    text = entries[0]
    for before, entry in pairwise(entries):
        apart = "\n\n\n" if _DEFINITION.match(before) or _DEFINITION.match(entry) else "\n\n"
        text += apart + entry
    return text


class _Source:
    """The text of a module: what is shown of it is cut out, as it is formatted there."""

    def __init__(self, text: str) -> None:
        self._tree = ast.parse(text)
        self._lines = text.splitlines()

    def definitions(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the text of everything that the module defines at its top."""
        for node, after in zip(self._tree.body, [*self._tree.body[1:], None], strict=True):
            match node:
                case ast.ClassDef() | ast.FunctionDef():
                    yield node.name, self._definition(node)
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    meaning = self._cut(after) if _is_text(after) else []
                    yield name, _plain("\n".join([self._constant(node), *meaning]))

    def _definition(self, node: ast.ClassDef | ast.FunctionDef) -> str:
        """Return a class or function as a stub: head, docstring, public members."""
        doc = node.body[0] if _is_text(node.body[0]) else None
        head = self._cut_lines(_first_line(node), node.body[0].lineno - 1)
        members = list(self._members(node)) if isinstance(node, ast.ClassDef) else []
        if doc is None and not members:
            return _plain("\n".join([*head[:-1], f"{head[-1]} ..."]))
        text = "\n".join([*head, *(self._cut(doc) if doc else []), *(["", *members] if members else [])])
        return _plain(text)

    def _members(self, node: ast.ClassDef) -> Iterator[str]:
        """Yield the public fields and methods of a class; each method after an empty line."""
        first = True
        for each in node.body:
            match each:
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    if not name.startswith("_"):
                        yield self._constant(each)
                        first = False
                case ast.FunctionDef(name=name) if not name.startswith("_") or name == "__init__":
                    yield ("" if first else "\n") + self._definition(each)
                    first = False

    def _constant(self, node: ast.Assign | ast.AnnAssign) -> str:
        """Return a constant with its value, or with `...` where that is a table of many lines."""
        lines = self._cut(node)
        return lines[0] if len(lines) == 1 else f"{lines[0].partition(' = ')[0]} = ..."

    def _cut(self, node: ast.stmt) -> list[str]:
        return self._cut_lines(node.lineno, node.end_lineno or node.lineno)

    def _cut_lines(self, first: int, last: int) -> list[str]:
        """Return lines, both ends included, counted from 1."""
        return self._lines[first - 1 : last]


def _first_line(node: ast.ClassDef | ast.FunctionDef) -> int:
    return min([node.lineno, *(each.lineno for each in node.decorator_list)])


def _is_text(node: ast.stmt | None) -> TypeGuard[ast.Expr]:
    """Tell whether a statement is only a string: what explains the constant before it, or a docstring."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case _:
            return False


def _plain(text: str) -> str:
    """Return a docstring without the marks that only Sphinx reads."""
    return _ROLES.sub(r"``\1``", text)
