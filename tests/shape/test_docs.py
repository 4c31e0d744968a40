"""The documentation is whole: links lead somewhere, blocks are valid, make targets and v1 names are the real ones."""

import ast
import re
from pathlib import Path

import pytest

from tests.shape.source_tree import ROOT, library_files

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_page_holds_two_versions_of_itself(page: Path) -> None:
    marks = ("<<<<<<< ", ">>>>>>> ")
    assert [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith(marks)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_python_block_is_valid_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page_name(page), "exec")


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (page_name(page), target)
        for page in PAGES
        for block in blocks(page, "bash")
        for target in re.findall(r"^make (\w+)", block, re.MULTILINE)
    }
    assert named
    assert [pair for pair in sorted(named) if pair[1] not in targets] == []


def test_every_page_of_docs_can_be_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        waiting += [page.parent / link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [page_name(page) for page in (ROOT / "docs").rglob("*.md") if page.resolve() not in reached] == []


def test_the_reference_lists_exactly_the_v1_names_that_there_are() -> None:
    page = (ROOT / "docs" / "reference" / "v1_names.md").read_text(encoding="utf-8")
    listed = {}
    for module, names, later in re.findall(r"^\| `(azureml[\w.]*)` \| (.*?) \| (.*?) \|$", page, re.MULTILINE):
        listed[module] = (set(re.findall(r"`(\w+)`", names)), set(re.findall(r"`(\w+)`", later)))
    listed["azureml.core"][0].discard("VERSION")
    assert {module: names for module, names in listed.items() if any(names)} == lazy_modules()


def lazy_modules() -> dict[str, tuple[set[str], set[str]]]:
    """Each v1 module with its names and those that come later, read from the calls of lazy_names()."""
    found = {"azureml.telemetry": ({"set_diagnostics_collection"}, set[str]())}
    for file in library_files():
        for node in file.nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy_names":
                module = file.name.removeprefix("src/runyard/").removesuffix(".py").removesuffix("/__init__")
                planned = [keyword.value for keyword in node.keywords if keyword.arg == "planned"]
                later = set(ast.literal_eval(planned[0])) if planned else set()
                found[module.replace("/", ".")] = (set(ast.literal_eval(node.args[1])), later)
    return found
