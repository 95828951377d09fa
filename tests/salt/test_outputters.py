"""
Every outputter that users are told to choose is one that this Salt has: an unknown one is passed over, with other text.
"""

import re

import salt.config
import salt.loader

#: Where commands of users stand.
PLACES = ("README.md", "docs", "_modules", "_states", "_beacons", "examples", "states", "pillar.example")
CHOSEN = re.compile(r"--out[= ]([a-z_]+)")


def test_each_outputter_that_is_named_is_there(repo):
    paths = [path for place in PLACES for path in ([repo / place] if (repo / place).is_file() else (repo / place).rglob("*"))]
    named = {name for path in paths if path.is_file() for name in CHOSEN.findall(path.read_text("utf-8", "replace"))}
    assert {"json", "txt", "yaml"} <= named
    assert named <= set(salt.loader.outputters(salt.config.minion_config(None)))
