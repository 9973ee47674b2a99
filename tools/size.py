"""Keeps the house small: limits on files, functions and parameters, and on the ways round other rules.

    python tools/size.py            complains about what is over its limit, and about exceptions that are too generous
    python tools/size.py --write    lowers or drops those exceptions; it never raises or adds one

Exceptions stand by name in tools/ratchet.toml and may only shrink. Exit status: 0 when there is nothing to complain of.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "tools", "bench")
REMEDIES = {
    "module_lines": "it holds two concepts: split it by noun",
    "function_lines": "give a part of it a name",
    "parameters": "group them into a small typed value",
    "broad_except": "catch what can really happen (`noqa: BLE001` is for edges that must survive anything)",
    "type_ignore": "say the type, or narrow it",
    "patching": "use a real server, or hand in what the test wants to replace",
}
UNITS = {
    "module_lines": "lines",
    "function_lines": "lines",
    "parameters": "parameters",
    "broad_except": "broad excepts",
    "type_ignore": "type ignores",
    "patching": "mocks or patches",
}
_BROAD = re.compile(r"#\s*noqa:[^#]*\bBLE001\b")
_IGNORE = re.compile(r"#\s*type:\s*ignore")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Exceptions = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Measure:
    """One thing measured: `name` is the file's path, followed by `::` and the function's where it is about one."""

    rule: str
    name: str
    line: int
    value: int

    @property
    def place(self) -> str:
        return f"{self.name.partition('::')[0]}:{self.line}"


@dataclass(frozen=True)
class Ratchet:
    """What is allowed: a limit per rule, and named exceptions to it."""

    limits: dict[str, int]
    exceptions: Exceptions


def load(path: Path) -> Ratchet:
    table = tomllib.loads(path.read_text())
    ratchet = Ratchet(table["limits"], table.get("exceptions", {}))
    if set(ratchet.limits) != set(REMEDIES) or not set(ratchet.exceptions) <= set(REMEDIES):
        raise SystemExit(f"{path}: [limits] and [exceptions.*] must name exactly these rules: {', '.join(REMEDIES)}")
    return ratchet


def measure(root: Path) -> list[Measure]:
    """Everything there is to measure in the Python files of `root`, the largest of each rule and name."""
    largest: dict[tuple[str, str], Measure] = {}
    for path in _files(root):
        for found in _measure_file(path.relative_to(root).as_posix(), path.read_text()):
            known = largest.get((found.rule, found.name))
            if known is None or known.value < found.value:
                largest[found.rule, found.name] = found
    return list(largest.values())


def _files(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if not {"node_modules", "__pycache__"} & set(path.parts):
                yield path


def _measure_file(name: str, source: str) -> Iterator[Measure]:
    tree = ast.parse(source, name)
    yield Measure("module_lines", name, 1, len(source.splitlines()))
    for qualified, function, method in _functions(tree, name + "::", in_class=False):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        yield Measure("function_lines", qualified, function.lineno, lines)
        yield Measure("parameters", qualified, function.lineno, _parameters(function, method))
    comments = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    yield from _count("broad_except", name, [line for line, text in comments if _BROAD.search(text)])
    yield from _count("type_ignore", name, [line for line, text in comments if _IGNORE.search(text)])
    if name.startswith("tests/"):
        yield from _count(
            "patching", name, sorted(getattr(node, "lineno", 1) for node in ast.walk(tree) if _patches(node))
        )


def _functions(node: ast.AST, prefix: str, *, in_class: bool) -> Iterator[tuple[str, Function, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child, in_class
            yield from _functions(child, f"{prefix}{child.name}.", in_class=False)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.", in_class=True)
        else:
            yield from _functions(child, prefix, in_class=in_class)


def _parameters(function: Function, method: bool) -> int:
    given = function.args
    count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)
    return count - 1 if method and count and not static else count


def _patches(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name in {"mock", "unittest.mock"} for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        mock = node.module == "unittest" and any(alias.name == "mock" for alias in node.names)
        return mock or node.module in {"mock", "unittest.mock"}
    if isinstance(node, ast.Attribute):
        return node.attr == "setattr" and isinstance(node.value, ast.Name) and node.value.id == "monkeypatch"
    return isinstance(node, ast.arg) and node.arg == "mocker"


def _count(rule: str, name: str, lines: list[int]) -> Iterator[Measure]:
    if lines:
        yield Measure(rule, name, lines[0], len(lines))


def judge(measures: list[Measure], ratchet: Ratchet) -> tuple[list[str], Exceptions]:
    """Complaints about what is too large, and the exceptions that should shrink: to N, or to 0 where none is needed."""
    complaints = []
    needed: Exceptions = {rule: {} for rule in ratchet.exceptions}
    for found in measures:
        allowed = ratchet.exceptions.get(found.rule, {}).get(found.name, 0)
        limit = ratchet.limits[found.rule]
        if found.value > max(limit, allowed):
            subject = found.name.partition("::")[2] or "the file"
            size = f"{found.value} {UNITS[found.rule]}, at most {max(limit, allowed)} allowed"
            complaints.append(f"{found.place}: {subject}: {size}; {REMEDIES[found.rule]}")
        if allowed and found.value > limit:
            needed[found.rule][found.name] = found.value
    shrink: Exceptions = {}
    for rule, names in ratchet.exceptions.items():
        for name, allowed in names.items():
            if (value := needed[rule].get(name, 0)) < allowed:
                shrink.setdefault(rule, {})[name] = value
    return complaints, shrink


def lowered(text: str, shrink: Exceptions) -> str:
    """The ratchet's text with the exceptions in `shrink` lowered, or gone where they are 0. Comments stay."""
    rule, lines = "", []
    for line in text.splitlines(keepends=True):
        if header := re.match(r"\s*\[exceptions\.(\w+)\]", line):
            rule = header[1]
        entry = re.match(r'\s*"(?P<name>[^"]+)"\s*=\s*(?P<value>\d+)', line)
        value = shrink.get(rule, {}).get(entry["name"]) if entry else None
        if entry is None or value is None:
            lines.append(line)
        elif value:
            lines.append(line[: entry.start("value")] + str(value) + line[entry.end("value") :])
    return "".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="lower exceptions to what is needed; never raises one")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure")
    given = parser.parse_args(arguments)
    path = given.root / "tools" / "ratchet.toml"
    measures = measure(given.root)
    ratchet = load(path)
    complaints, shrink = judge(measures, ratchet)
    too_generous = [
        f"tools/ratchet.toml: [exceptions.{rule}] {name}: " + (f"lower it to {value}" if value else "remove it")
        for rule, names in shrink.items()
        for name, value in names.items()
    ]
    if given.write and shrink:
        path.write_text(lowered(path.read_text(), shrink))
        print("\n".join(f"{line}: done" for line in too_generous))
    else:
        complaints += too_generous
    if complaints:
        print("\n".join(sorted(complaints)))
        print(
            f"{len(complaints)} to mend. The last resort, with a reason in the commit: name it in tools/ratchet.toml."
        )
        return 1
    modules = sum(found.rule == "module_lines" for found in measures)
    print(f"{modules} modules within their limits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
