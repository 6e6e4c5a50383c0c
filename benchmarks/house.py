"""The house in numbers: rooms, floors, circles of imports, lines, long functions and files, `Any`, duplicate names.

    python benchmarks/house.py                      # as it is checked out
    python benchmarks/house.py --commit 734893d     # as it was

Counts only, from the syntax trees: nothing of the package is imported, so that any commit can be measured.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tarfile
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONG_FUNCTION, LONG_CLASS, LONG_FILE = 120, 250, 500
_PAIRS = ("data_", "_data", "_general", "general_")  # what told one of two files of the same noun from the other


def sources(commit):
    """Relative path and text of every module of the package, in the working tree or at a commit."""
    if commit is None:
        paths = sorted((ROOT / "meanfield").rglob("*.py"))
        return {path.relative_to(ROOT / "meanfield").as_posix(): path.read_text() for path in paths}
    data = subprocess.run(["git", "archive", commit, "meanfield"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [member for member in archive if member.name.endswith(".py")]
        return {
            member.name.removeprefix("meanfield/"): archive.extractfile(member).read().decode() for member in members
        }


def module_name(path):
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(trees):
    """Modules of the package that each module imports, late imports and those of type checkers included."""
    names = {module_name(path) for path in trees}
    graph = {}
    for path, tree in trees.items():
        found = set()
        package = ["meanfield", *path.split("/")[:-1]]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        own = module_name(path)
        inside = {name.removeprefix("meanfield.") for name in found if name.startswith("meanfield.")} & names
        # A module's own package is no import, and neither is the first page of the whole package.
        graph[own] = {other for other in inside if not own.startswith(f"{other}.")} - {own, ""}
    graph.pop("", None)
    return graph


def circles(graph):
    """Sets of modules that import one another in a circle (strongly connected, more than one)."""
    reached = {}

    def reach(start):
        if start not in reached:
            seen, waiting = set(), [start]
            while waiting:
                for other in graph.get(waiting.pop(), ()):
                    if other not in seen:
                        seen.add(other)
                        waiting.append(other)
            reached[start] = seen
        return reached[start]

    found = {frozenset(b for b in reach(a) if a in reach(b)) for a in graph}
    return [sorted(group) for group in found if len(group) > 1]


def floors(graph, groups):
    """Length of the longest chain of imports, a circle being one floor."""
    one = {name: min(group) for group in groups for name in group}
    merged = defaultdict(set)
    for name, others in graph.items():
        merged[one.get(name, name)] |= {one.get(other, other) for other in others}
    for name, others in merged.items():
        others.discard(name)
    level = {}
    try:
        for name in TopologicalSorter(merged).static_order():
            level[name] = 1 + max((level[other] for other in merged.get(name, ())), default=0)
    except CycleError as error:  # cannot be, circles are merged
        raise AssertionError(error.args) from error
    return max(level.values())


def room_of(path):
    parts = path.split("/")
    if len(parts) == 1:
        return "(front)"
    return "/".join(parts[:2]) if parts[0] == "theories" and len(parts) > 2 else parts[0]


def long_ones(trees, kind, limit):
    """(path, name, lines) of functions or classes above a limit, longest first."""
    rows = [
        (path, node.name, node.end_lineno - node.lineno + 1)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, kind) and node.end_lineno - node.lineno + 1 > limit
    ]
    return sorted(rows, key=lambda row: -row[2])


def compiled(path):
    return "compiled" in path or path.startswith("solvers/numerics")


def duplicates(trees):
    """Public classes of one name in several files."""
    where = defaultdict(list)
    for path, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(path)
    return {name: paths for name, paths in sorted(where.items()) if len(paths) > 1}


def pairs(trees):
    """Pairs of files of one folder whose names differ by "data" or "general" only."""
    found = []
    for path in trees:
        folder, _, name = path.rpartition("/")
        for mark in _PAIRS:
            if mark in name and f"{folder}/{name.replace(mark, '')}".lstrip("/") in trees:
                found.append((f"{folder}/{name.replace(mark, '')}".lstrip("/"), path))
    return sorted(set(found))


def report(commit):
    texts = sources(commit)
    trees = {path: ast.parse(text) for path, text in texts.items()}
    graph = import_graph(trees)
    groups = circles(graph)
    lines = Counter()
    for path, text in texts.items():
        lines[room_of(path)] += text.count("\n")
    print(f"{'as checked out' if commit is None else commit}: {len(texts)} files, {sum(lines.values())} lines")
    print(f"files at the front {sum('/' not in path for path in texts)}")
    print(f"rooms {len(set(lines) - {'(front)'})}, floors {floors(graph, groups)}, circles {len(groups)}")
    for group in groups:
        print(f"  circle: {', '.join(group)}")
    print("lines per room: " + ", ".join(f"{room} {n}" for room, n in sorted(lines.items())))
    for what, kind, limit in (
        ("functions", ast.FunctionDef, LONG_FUNCTION),
        ("classes", ast.ClassDef, LONG_CLASS),
    ):
        rows = long_ones(trees, kind, limit)
        inside = sum(compiled(path) for path, _, _ in rows)
        print(f"{what} over {limit} lines: {len(rows) - inside}, and {inside} in compiled code")
        for path, name, size in rows:
            print(f"  {path} {name} {size}")
    big = {path: n for path, text in texts.items() if (n := text.count("\n")) > LONG_FILE}
    print(f"files over {LONG_FILE} lines: {len(big)} {', '.join(f'{path} {n}' for path, n in big.items())}")
    used = sum(bool(re.search(r"\bAny\b", line)) for text in texts.values() for line in text.splitlines())
    print(f"lines with Any: {used}")
    found = pairs(trees)
    print(f"pairs of files: {len(found)} {', '.join(f'{a} / {b}' for a, b in found)}")
    again = duplicates(trees)
    print(f"classes of one name: {len(again)} {', '.join(f'{name} ({len(paths)})' for name, paths in again.items())}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", help="measure the package as it was there; default: as checked out")
    report(parser.parse_args().commit)


if __name__ == "__main__":
    main()
