"""
What users may hand to functions: each kind with what it takes and what it refuses, and values that are no setting at all.
"""

import datetime

import pytest

from gpuslice import arguments
from gpuslice import errors
from gpuslice import values
from gpuslice.printable import printable

UUID = "GPU-eb73f151-c944-4ceb-8a88-ad01349c00aa"
TRUTHS = ("test", "force", "full", "reload", "reload_driver", "autoprobe", "enabled")
NO_TRUTH = [None, 0, 1, -1, 0.0, 1.0, "", "true", "false", "True", "no", [], {}, [True], b"", float("nan")]
NO_NUMBER = [None, True, False, 1.5, 2.0, "1", "", "²", [], {}, float("nan"), float("inf"), -1, 10**30, b"1"]


@pytest.mark.parametrize("name", TRUTHS)
def test_only_true_and_false_permit_or_forbid(name):
    arguments.check(**{name: True})
    arguments.check(**{name: False})
    for value in NO_TRUTH:
        with pytest.raises(errors.PolicyError, match=f"^{name} is .*(True or False is wanted|nothing can be counted)"):
            arguments.check(**{name: value})


@pytest.mark.parametrize(("name", "low", "high"), [("generation", 0, 10**15), ("compute_instances", 1, 8), ("start", 0, 63)])
def test_numbers_are_whole_and_within_their_bounds(name, low, high):
    arguments.check(**{name: low})
    arguments.check(**{name: high})
    for value in [*NO_NUMBER, low - 1, high + 1]:
        with pytest.raises(errors.PolicyError, match=f"^{name} is "):
            arguments.check(**{name: value})


@pytest.mark.parametrize("value", ["0000:07:00.0", "07:00.0", "0000:C1:00.0", 420.0, UUID, UUID.lower()])
def test_a_gpu_is_named_by_address_or_uuid(value):
    arguments.check(gpu=value)
    arguments.check(function=value)


@pytest.mark.parametrize("name", ["gpu", "function"])
@pytest.mark.parametrize("value", [None, True, "", "7" * 79, "a b", "7" * 5000, "\x1b[2J", "../..", -1.0, float("inf"), {}, b"a"])
def test_what_is_no_gpu_is_refused(name, value):
    with pytest.raises(errors.PolicyError) as caught:
        arguments.check(**{name: value})
    assert len(str(caught.value)) < 300 and printable(str(caught.value)) == str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["all", ["0000:07:00.0", UUID], ["all"], "*H100*", "0000:0?:00.0", "0000:07:00.0-1g.10gb-0", UUID.lower(), ["*", "all"],
     # What an index stood for is told by the host.
     "0", 7],
)  # fmt: skip
def test_gpus_are_named_in_many_ways(value):
    arguments.check(gpu=value)


@pytest.mark.parametrize("value", [[], [[]], ["0000:07:00.0", None], "gpu-0", "*" * 90, "a\n*", "0000:07:00.0-\x1b[2J", {}])
def test_what_names_no_gpu_is_refused(value):
    with pytest.raises(errors.PolicyError):
        arguments.check(gpu=value)


def test_a_time_is_a_number_of_seconds():
    for value in (0, 0.5, 600):
        arguments.check(wait=value)
    for value in (True, -1, 601, float("nan"), "60", None):
        with pytest.raises(errors.PolicyError, match="^wait (must be|is) "):
            arguments.check(wait=value)


def test_a_pillar_is_a_mapping_also_an_empty_one():
    arguments.check(pillar={})
    for value in ("abc", [], 7, True, "{}"):
        with pytest.raises(errors.PolicyError, match="^pillar is .*mapping"):
            arguments.check(pillar=value)


def test_a_form_is_one_of_those_that_there_are():
    for form in arguments.FORMS:
        arguments.check(form=form)
    for value in ("yaml", "Pillar", "", None, ["pillar"]):
        with pytest.raises(errors.PolicyError, match="pillar or mig-parted"):
            arguments.check(form=value)


def test_a_name_is_a_text_that_can_be_printed():
    arguments.check(profile="NVIDIA RTX Pro 6000 Blackwell DC-24Q", instance="3g.40gb@4", vgpu="all")
    for value in (None, 7, "", "  ", "a\nb", "\x1b[2J", "\ud800", "\u202e", "x" * 5000, ["3g.40gb"]):
        with pytest.raises(errors.PolicyError, match="^profile is "):
            arguments.check(profile=value)


def test_a_secret_is_never_shown():
    for value in (7, ["geheim"], {"geheim": 1}, 10**5000):
        with pytest.raises(errors.PolicyError) as caught:
            arguments.check(client_token=value)
        assert "geheim" not in str(caught.value)


ENDLESS = []
ENDLESS.append(ENDLESS)
DEEP = "x"
for _ in range(2000):
    DEEP = [DEEP]


ODD = {
    "endless": ENDLESS,
    "deep": DEEP,
    "deep in a mapping": {"a": DEEP},
    "many": [0] * 30000,
    "huge": 10**5000,
    "huge and negative": -(10**5000),
    "a huge key": {10**5000: 1},
    "long": ["x" * 70000],
    "a long key": {"x" * 70000: 1},
    "no number": [float("nan")],
    "without end": {"a": {"b": float("inf")}},
}


@pytest.mark.parametrize("what", ODD)
def test_what_no_setting_is_gets_a_short_sentence(what):
    with pytest.raises(errors.PolicyError) as caught:
        values.refuse_odd(ODD[what], "vfs")
    assert str(caught.value).startswith("vfs ") and len(str(caught.value)) < 400


def test_what_a_setting_may_be_is_let_through():
    values.refuse_odd({"a": [1, 2.5, None, True, "x", datetime.date(2026, 1, 1), ("y",)], 1: {"b": b"z"}}, "vfs")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "empty"),
        (True, "the truth value true"),
        (8, "the number 8"),
        ("8", "the text '8'"),
        ("", "an empty text"),
        ("\x1b[31mgone\a", "the text '\\x1b[31mgone\\x07'"),
        ("\ud800", "the text '\\ud800'"),
        ("Grüße", "the text 'Grüße'"),
        ({}, "a mapping"),
        ((), "a list"),
        (datetime.date(2026, 1, 1), "a date"),
    ],
)
def test_values_are_described_with_their_type(value, words):
    assert values.describe(value) == words


def test_long_texts_and_numbers_are_cut():
    assert values.describe(10**5000) == "a number that is too large"
    assert len(values.describe("x" * 10**6)) < 120
