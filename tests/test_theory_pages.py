"""Theory pages beside the code: what is cited exists, what they name exists, and they are installed."""

import ast
import configparser
import io
import re
import tokenize
from pathlib import Path

import pytest

import meanfield

PACKAGE = Path(meanfield.__file__).parent
ROOT = Path(__file__).parents[1]
PAGES = sorted(PACKAGE.rglob("*.md"))
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")])

# A path that ends in md and, after a comma, perhaps a section in quotes; it may be broken over lines.
CITATION = re.compile(r"(?<![\w.])((?:[A-Za-z_]+/)*[A-Za-z_]+\.md)\b(?:`?,\s+\"([^\"]+)\")?")
WRITTEN = {"report.md"}  # files that the package writes, and does not cite
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
MODULE = re.compile(r"`([a-z_]+(?:/[a-z_]+)*/?[a-z_]*\.(?:py|ipynb))`")


def page_name(path):
    return path.relative_to(PACKAGE).as_posix()


def prose_of(text):
    """Docstrings and comments of a Python file, with line breaks as spaces."""
    found = [
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    comments = [
        token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    ]
    return " ".join(" ".join([*found, *comments]).split())


def cited(text):
    """(page, section) of every citation."""
    return [(name, section) for name, section in CITATION.findall(text) if name not in WRITTEN]


def own_page(path):
    """The page that a citation without a folder means: that of the nearest folder above the file that has one."""
    room = next((folder for folder in path.parents if (folder / "THEORY.md").exists()), PACKAGE)
    return page_name(room / "THEORY.md")


def begun(path):
    """Whether a file belongs to a theory that is not registered yet, whose page may come with the registration."""
    theories = PACKAGE / "theories"
    room = next((folder for folder in path.parents if folder.parent == theories), None)
    return room is not None and not (room / "theory.py").exists()


def missing(name, section, pages):
    """What is wrong with a citation, or None: the page must be told uniquely by the end of its path."""
    if name in ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md"):
        candidates = [ROOT / name]
    else:
        candidates = [path for path in pages if f"/{page_name(path)}".endswith(f"/{name}")]
    if len(candidates) != 1 or not candidates[0].exists():
        return f"{name}: {len(candidates)} pages of that name"
    headings = HEADING.findall(candidates[0].read_text(encoding="utf-8"))
    if section and section not in headings:
        return f'{name} has no section "{section}"'
    return None


def test_every_citation_in_the_code_leads_to_a_section():
    found = {}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for name, section in cited(prose_of(text) if ".md" in text else ""):
            if name == "THEORY.md":
                if begun(path):
                    continue
                name = own_page(path)
            found[path.relative_to(ROOT if ROOT in path.parents else PACKAGE).as_posix(), name, section] = None
    wrong = {key: problem for key in found if (problem := missing(key[1], key[2], PAGES))}
    assert wrong == {}
    assert sum(page.startswith(("single_layer/", "general_data/", "phases/")) for _, page, _ in found) >= 15


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_a_page_refers_to_what_exists(path):
    text = path.read_text(encoding="utf-8")
    wrong = [problem for name, section in cited(" ".join(text.split())) if (problem := missing(name, section, PAGES))]
    wrong += [name for name in MODULE.findall(text) if not any((base / name).exists() for base in (PACKAGE, ROOT))]
    assert wrong == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_a_page_has_what_its_reader_looks_for(path):
    text = path.read_text(encoding="utf-8")
    headings = HEADING.findall(text)
    assert len(headings) == len(set(headings))
    assert headings[-1] == "Known limits"
    if path.parent.parent.name == "theories":
        assert "What the certificate proves" in headings
        assert "Held against samples" in headings
    assert text.count("$$") % 2 == 0
    assert re.findall(r"https?://|@@|(?:^|[\s`'\"(])/[a-z]+/\S*", text) == []


def test_every_theory_has_a_page():
    folders = [path for path in (PACKAGE / "theories").iterdir() if (path / "theory.py").exists()]
    assert len(folders) >= 4
    assert [folder.name for folder in folders if not (folder / "THEORY.md").exists()] == []


def test_pages_are_package_data():
    """Read from setup.cfg: the patterns are globs within the package."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = [part.strip() for part in config["options.package_data"]["meanfield"].split(",")]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert [page_name(path) for path in PAGES if path not in packaged] == []


@pytest.mark.parametrize(
    ("name", "section", "problem"),
    [
        ("nowhere.md", "", "nowhere.md: 0 pages of that name"),
        ("THEORY.md", "", "pages of that name"),
        ("phases/THEORY.md", "Weather", 'phases/THEORY.md has no section "Weather"'),
        ("phases/THEORY.md", "ReLU", None),
    ],
)
def test_a_wrong_citation_is_noticed(name, section, problem):
    found = missing(name, section, PAGES)
    assert found == problem or problem in found


def test_citations_are_read_over_line_breaks():
    text = '"""First, see a_b/THEORY.md, "Bulk and\noutliers"."""\n# and c.md here\n'
    assert cited(prose_of(text)) == [("a_b/THEORY.md", "Bulk and outliers"), ("c.md", "")]
