"""Labels of a node: what they tell, and that they are labels whatever they are made of."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.model import Slice
from gpuslice.outputs import kubernetes_labels as labels

A, B = "0000:1b:00.0", "0000:43:00.0"
#: Of Kubernetes itself (util/validation), written anew.
QUALIFIED = re.compile(r"\A(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])\Z")


def mig(number, profile="1g.10gb", gpu=A):
    return Slice(gpu, "mig", profile, f"MIG-{number}", placement=f"{number}:1", name=f"{gpu}-{profile}-{number}")


def made(slices, health="ok", generation=3, quarantined=0, **more):
    return labels.labels(slices, health, generation, quarantined, **more)


def is_label(key, value):
    prefix, _, name = key.rpartition("/")
    return prefix == "gpu-slicing" and all(len(each) <= 63 and QUALIFIED.match(each) for each in (name, value))


def test_they_tell_strategy_profiles_generation_and_health():
    found = made([mig(0), mig(1), mig(2, "1g.10gb+me")], quarantined=1)
    assert found.pop("gpu-slicing/layout") and found == {
        "gpu-slicing/strategy": "mig", "gpu-slicing/generation": "3", "gpu-slicing/health": "ok", "gpu-slicing/quarantined": "1",
        "gpu-slicing/mig-1g.10gb": "2", "gpu-slicing/mig-1g.10gb.me": "1",
    }  # fmt: skip


def test_a_strategy_is_mixed_where_gpus_differ_and_none_where_nothing_is_cut():
    whole = Slice(B, "gpu", "H100", "GPU-1", compute=1.0, name=B)
    assert made([mig(0), whole])["gpu-slicing/strategy"] == "mixed" and made([])["gpu-slicing/strategy"] == "none"
    spx = Slice(A, "partition", "SPX/NPS1", "x", compute=1.0, name=A)
    found = made([whole, spx])
    assert found["gpu-slicing/strategy"] == "none" and found["gpu-slicing/partition-SPX_NPS1"] == found["gpu-slicing/gpu"] == "1"


def test_the_layout_is_the_same_whatever_uuids_and_order_are():
    first = labels.digest([mig(0), mig(1)])
    assert first == labels.digest([mig(1), mig(0)._replace(identity="MIG-new")]) != labels.digest([mig(0), mig(2)])
    assert re.fullmatch("[0-9a-f]{16}", first)


def test_the_vendor_s_label_is_there_only_on_request():
    assert labels.SELECTOR not in made([mig(0)]) and made([mig(0)], config="mig-mixed")[labels.SELECTOR] == "mig-mixed"
    for wrong in ("a b", "-a", "a/b", "x" * 64, "é", "a\n"):
        with pytest.raises(errors.PolicyError, match="can be no value of a label"):
            made([mig(0)], config=wrong)


@pytest.mark.parametrize("key", ["a", "a.b/c", "gpu-slicing/mig-1g.10gb", f"{'a' * 253}/{'b' * 63}"])
def test_keys(key):
    assert labels.key_mistake(key) == ""


@pytest.mark.parametrize(
    "key", ["", "a/", "/a", "A.b/c", "a..b/c", "-a/b", "a b", "a/b/c", f"{'a' * 254}/b", "b" * 64, "_a", "a\n"]
)
def test_what_is_no_key(key):
    assert labels.key_mistake(key)


@given(st.text(max_size=90))
def test_any_text_makes_a_name(text):
    name = labels.name_of(text)
    assert len(name) <= 63 and QUALIFIED.match(name) and labels.key_mistake(f"{labels.PREFIX}/{name}") == ""
    assert labels.name_of(name) == name


@given(st.lists(st.text(string.printable, max_size=80), min_size=2, max_size=2, unique=True))
def test_different_texts_have_different_names(texts):
    first, second = map(labels.name_of, texts)
    assert first != second


KINDS = st.sampled_from(["mig", "vgpu", "partition", "replica", "vf", "gpu", "new kind"])


@given(st.lists(st.tuples(KINDS, st.text(max_size=80))))
def test_whatever_a_driver_calls_a_profile_labels_are_labels(parts):
    slices = [Slice(A, kind, profile, "x", name=f"{A}-{number}") for number, (kind, profile) in enumerate(parts)]
    found = made(slices)
    assert all(is_label(key, value) for key, value in found.items() if "strategy" not in key)


@given(st.text(max_size=80))
def test_values_are_judged_as_kubernetes_does(value):
    assert (labels.value_mistake(value) == "") == (value == "" or (len(value) <= 63 and bool(QUALIFIED.match(value))))
