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


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md", "docs/reliability.md"])
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_what_is_said_to_test_a_promise_is_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`(tests/[\w/.]+)`", text))
    assert len(files) > 10
    assert [name for name in files if not (ROOT / name).exists()] == []
    # In its section on tests/stress, files and tests go by their names alone.
    stress = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/stress/*.py"))
    for name in re.findall(r"`(test_\w+)(?:\.py)?`", text):
        assert f"def {name}(" in stress or (ROOT / "tests" / "stress" / f"{name}.py").exists(), name


def test_the_sizes_of_the_stress_tests_are_as_documented() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `(PYLOOP_\w+)` \| (\d+) \|", text, re.MULTILINE))
    used = {
        name: default.replace("_", "")
        for path in ROOT.glob("tests/stress/*.py")
        for name, default in re.findall(
            r"\bsize\(\"(PYLOOP_\w+)\", ([\d_]+)\)", path.read_text(encoding="utf-8")
        )
    }
    assert documented == used


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
