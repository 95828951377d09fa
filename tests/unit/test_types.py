"""The type checker of ``make lint``: it has nothing to say of this tree, and finds what it is there for."""

import subprocess
import sys

import pytest

HEAD = '''
from typing import Any
from typing import final

from gpuslice.model import Gpu
from gpuslice.plan import Part
from gpuslice.policy.section import Section
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Work


class Sound(Technique):
    """A technique as it should be."""

    name = "mig"

    def observe(self, gpu):
        return None

    def words(self, layout):
        return ""

    def shown(self, layout):
        return {}

    def plan(self, works):
        return []
'''


#: Name -> (what is wrong, a part of what mypy says of it).
WRONG = {
    "nothing": ("", None),
    "plan_of_one_gpu": ("@final\nclass Odd(Sound):\n    def plan(self, gpu, state, settings):\n        return []\n", '"plan"'),
    "plan_of_the_wrong_thing": (
        "@final\nclass Odd(Sound):\n    def plan(self, works: list[Gpu]) -> list[Part]:\n        return []\n", '"plan"',
    ),
    "slices_without_a_state": ("@final\nclass Odd(Sound):\n    def slices(self, gpu):\n        return []\n", '"slices"'),
    "no_observe": (
        '@final\nclass Odd(Technique):\n    name = "mig"\n\n    def words(self, layout):\n        return ""\n\n'
        "    def shown(self, layout):\n        return {}\n\n    def plan(self, works):\n        return []\n", '"observe"',
    ),
    "settle_without_notes": ("class Odd(Section):\n    def settle(self, filled, written):\n        return filled\n", '"settle"'),
    "key_that_is_none": ("def layer(work: Work) -> int:\n    return work.target.key.layer\n", '"layer"'),
}  # fmt: skip


def checked(repo, tmp_path, *arguments):
    """What mypy answers, with the settings of this repository, its own files left alone unless they are named."""
    argv = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "--no-error-summary", *arguments]
    done = subprocess.run(argv, cwd=repo, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def answers(repo, tmp_path_factory):
    """Name of a wrong file -> what mypy answers to it; it is asked once for all."""
    tmp_path = tmp_path_factory.mktemp("types")
    paths = []
    for name, (source, _) in WRONG.items():
        paths.append(tmp_path / f"{name}.py")
        paths[-1].write_text(HEAD + source, encoding="utf-8")
    lines = checked(repo, tmp_path, *map(str, paths))
    return {name: [line for line in lines if f"{name}.py:" in line and "error:" in line] for name in WRONG}


@pytest.mark.parametrize("name", WRONG)
def test_what_breaks_an_interface_is_found(answers, name):
    said, lines = WRONG[name][1], answers[name]
    assert bool(lines) == bool(said)
    assert all(said in line for line in lines)


def test_every_technique_is_final_so_that_a_missing_method_is_found(repo):
    paths = sorted((repo / "_utils" / "gpuslice" / "techniques").glob("*/technique.py"))
    sources = {path.parent.name: path.read_text(encoding="utf-8") for path in paths}
    assert sources and [name for name, source in sources.items() if source.count("\n@final\nclass ") != 1] == []


def test_the_tree_is_sound(repo, tmp_path):
    assert checked(repo, tmp_path) == []
