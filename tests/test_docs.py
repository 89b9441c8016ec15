"""What the documents say of the tests: each that is named is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documents are not here")


def functions_of(module: str) -> set[str]:
    tree = ast.parse((TESTS / f"{module}.py").read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_tests_that_asyncio_md_names_exist() -> None:
    text = (DOCS / "asyncio.md").read_text()
    names = re.findall(r"`((?:libs/)?test_\w+)(?:::(test_\w+))?`", text)
    missing = []
    for first, second in names:
        module, function = (first, second) if second else ("test_asyncio_complete", first)
        if not second and (TESTS / f"{first}.py").is_file():
            continue  # a module
        if not (TESTS / f"{module}.py").is_file() or function not in functions_of(module):
            missing.append(f"{module}::{function}")
    assert missing == []
    assert len(names) > 50
