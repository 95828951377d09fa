"""gridd.conf: what it says, and how our lines come into it and go again without a trace."""

import pytest
from hypothesis import assume
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.drivers import gridd

TEMPLATE = "# A template\n#ServerAddress=\n\nFeatureType=0\n"
WANTED = {"ServerAddress": "lic1", "ServerPort": "7070", "FeatureType": "1"}


def said(text):
    """Server, port and feature of a text."""
    return tuple(gridd.values(text)[key] for key in gridd.KEYS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ("", "", "")),
        ("", ("", "", "")),
        ("#ServerAddress=a\n# FeatureType=2\n", ("", "", "")),
        ("ServerAddress=a\n", ("a", "7070", "")),
        ("  ServerAddress = a \nServerPort=7071\nFeatureType=2", ("a", "7071", "2")),
        ('ServerAddress="a"\n', ("a", "7070", "")),
        ("ServerAddress=a\nServerAddress=b\n", ("a and b", "7070", "")),
        ("ServerAddress=a\nServerAddress=a\n", ("a", "7070", "")),
        ("BackupServerAddress=z\nServerAddressX=y\n", ("", "", "")),
    ],
)
def test_what_a_configuration_says(text, expected):
    assert said(text) == expected


def test_a_missing_file_begins_with_the_template_and_goes_with_our_lines():
    made = gridd.rewritten(None, TEMPLATE, {**WANTED, "FeatureType": ""})
    assert made.startswith(TEMPLATE) and said(made) == ("lic1", "7070", "0")
    assert gridd.rewritten(made, TEMPLATE, {}) is None
    assert gridd.rewritten(None, TEMPLATE, {}) is None
    without = gridd.rewritten(None, "", WANTED)
    assert said(without) == ("lic1", "7070", "1") and gridd.rewritten(without, "", {}) is None


def test_a_file_of_ours_that_somebody_added_to_stays_with_what_was_added():
    made = gridd.rewritten(None, TEMPLATE, WANTED)
    added = made.replace("# A template\n", "# A template\nEnableUI=FALSE\n")
    assert gridd.rewritten(added, TEMPLATE, {}) == TEMPLATE.replace("# A template\n", "# A template\nEnableUI=FALSE\n")


def test_a_line_that_stands_in_the_way_becomes_a_comment_and_comes_back():
    old = "# mine\nFeatureType = 2\nServerAddress=old\nServerPort=1\nLogLevel=1\n"
    new = gridd.rewritten(old, TEMPLATE, WANTED)
    assert said(new) == ("lic1", "7070", "1")
    assert [line for line in new.splitlines() if not line.startswith("#")] == [
        "LogLevel=1", "ServerAddress=lic1", "ServerPort=7070", "FeatureType=1",
    ]  # fmt: skip
    assert gridd.rewritten(new, TEMPLATE, {}) == old
    changed = gridd.rewritten(new, TEMPLATE, {"ServerAddress": "lic2", "ServerPort": "7070", "FeatureType": ""})
    assert said(changed) == ("lic2", "7070", "2")


def test_what_says_so_already_is_not_touched():
    for text in ("ServerAddress=lic1\nFeatureType=1\n", "FeatureType=1\nServerPort=7070\nServerAddress='lic1'\n"):
        assert gridd.rewritten(text, TEMPLATE, WANTED) == text
    assert said(gridd.rewritten("ServerAddress=lic1\n", TEMPLATE, {**WANTED, "ServerPort": "7071"})) == ("lic1", "7071", "1")


def test_lines_end_with_line_feeds_and_nothing_else():
    old = "A=1\r\n# a\x0bb\u2028c\x85\nFeatureType=2\r\n"
    new = gridd.rewritten(old, "", WANTED)
    assert gridd.values(new)["FeatureType"] == "1" and gridd.rewritten(new, "", {}) == old


lines = st.lists(
    st.sampled_from([
        "", "# a comment", "ServerAddress=lic1", "ServerAddress=other", "ServerPort=7070", "ServerPort=1", "FeatureType=0",
        "FeatureType=2", "  FeatureType = 1", "BackupServerAddress=x", "EnableUI=FALSE", "#ServerAddress=commented",
    ]),
    max_size=8,
)  # fmt: skip
values = st.fixed_dictionaries(
    {},
    optional={
        "ServerAddress": st.sampled_from(["", "lic1", "lic2"]),
        "ServerPort": st.sampled_from(["", "7070", "7071"]),
        "FeatureType": st.sampled_from(["", "1", "4"]),
    },
)


@given(st.none() | lines.map(lambda found: "".join(f"{line}\n" for line in found)), values, values)
def test_whatever_is_wanted_is_said_and_can_be_taken_back(text, one, other):
    assume(text != "\n")
    first = gridd.rewritten(text, TEMPLATE, one)
    told = gridd.values(first)
    assert all(told[key] == value for key, value in one.items() if value)
    assert gridd.rewritten(first, TEMPLATE, one) == first
    second = gridd.rewritten(first, TEMPLATE, other)
    assert second == gridd.rewritten(text, TEMPLATE, other)
    assert gridd.rewritten(second, TEMPLATE, {}) == text
