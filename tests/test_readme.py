"""What the README shows is true: its programs run, its links lead somewhere."""

import re
from pathlib import Path

import pytest
from support import run_python

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# A program, and right after it what the program prints.
PROGRAMS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)


def test_every_program_says_what_it_prints() -> None:
    assert len(PROGRAMS) == README.count("```python\n") == 3


@pytest.mark.parametrize(
    ("program", "output"), PROGRAMS, ids=["coroutines", "generators", "asyncio"]
)
def test_program(program: str, output: str, backend: str) -> None:
    done = run_python(program, env={"PYTHONWARNINGS": "error"})
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_reading_list_names_what_is_there() -> None:
    listed = re.findall(r"^\d\. \[(csrc/\S+)\]\(\1\): `?(\w+)`?", README, re.MULTILINE)
    assert len(listed) == 5
    for path, word in listed:
        text = (ROOT / path).read_text(encoding="utf-8")
        assert text.startswith("/*"), f"{path} has no head"
        if "_" in word:
            assert re.search(rf"^{word}\(", text, re.MULTILINE), f"{path} has no {word}"


def test_the_debian_packages_are_named() -> None:
    assert "apt-get install build-essential python3-dev python3-venv" in README
