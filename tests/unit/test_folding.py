"""What is told of several GPUs: the same once, and nothing lost that tells them apart."""

import json

from hypothesis import given
from hypothesis import strategies

from gpuslice import folding
from gpuslice.folding import Told

ONE, TWO, THREE = "0000:1b:00.0", "0000:43:00.0", "0000:52:00.0"
UUID = "MIG-39dcd782-7341-584d-a918-b129b63687b1"
OTHER_UUID = "MIG-c62d6f8f-3a50-54ca-a63f-d2116a4a544e"


def test_gpus_that_do_the_same_are_told_once():
    told = [Told((each,), "H100", "keeps 1", (f"  1. write {each}.conf", "  2. go"), word="mig") for each in (ONE, TWO)]
    assert folding.folded(told) == [f"2 x H100 ({ONE}, 43), mig: each keeps 1", "  1. write <GPU>.conf", "  2. go"]


def test_the_address_in_the_name_of_a_unit_tells_nothing_apart():
    told = [Told((each,), "L40S", "a", (f"  1. write mps-{each.replace(':', '-')}.service",)) for each in (ONE, TWO)]
    assert folding.folded(told) == [f"2 x L40S ({ONE}, 43): each a", "  1. write mps-<GPU>.service"]


def test_one_gpu_is_told_as_it_is():
    told = Told((ONE,), "H100", "keeps 1", (f"  1. destroy it ({UUID})",), word="mig")
    assert folding.folded([told]) == [f"{ONE} H100 (mig): keeps 1", f"  1. destroy it ({UUID})"]


def test_what_differs_in_a_uuid_only_is_the_same():
    lines = [(f"  1. destroy it ({uuid})",) for uuid in (UUID, OTHER_UUID)]
    told = [Told((gpu,), "H100", "keeps 0", each) for gpu, each in zip((ONE, TWO), lines, strict=True)]
    assert folding.folded(told) == [f"2 x H100 ({ONE}, 43): each keeps 0", "  1. destroy it"]


def test_other_models_and_other_changes_stay_apart_in_their_order():
    told = [Told((ONE,), "H100", "a"), Told((TWO,), "A100", "a"), Told((THREE,), "H100", "b")]
    told.append(Told(("0000:61:00.0",), "H100", "a"))
    assert folding.folded(told) == [f"2 x H100 ({ONE}, 61): a", f"{TWO} A100: a", f"{THREE} H100: b"]


def test_what_covers_several_or_none_stays_as_it_is():
    both = Told((ONE, TWO), "MI300X", "a", word="partition")
    assert folding.folded([both, both, Told((), "", "about 1 s", word="Consumers")]) == [
        f"{ONE}, {TWO} MI300X (partition): a", f"{ONE}, {TWO} MI300X (partition): a", "Consumers: about 1 s",
    ]  # fmt: skip


def test_addresses_are_shortened_where_only_the_bus_differs():
    assert folding.shortened([ONE, TWO]) == f"{ONE}, 43"
    assert folding.shortened([ONE, "0001:43:00.0", "0000:43:00.1"]) == f"{ONE}, 0001:43:00.0, 0000:43:00.1"
    many = [f"0000:{bus:02x}:00.0" for bus in range(1, 40)]
    assert folding.shortened(many).endswith("10, ...") and folding.shortened(["0000:01:00.0"]) == "0000:01:00.0"


def test_sentences_on_gpus_are_folded_and_others_keep_their_place():
    used = [f"GPU {each}: In use by pid 1." for each in (ONE, TWO)]
    others = ["The host has none.", f"{THREE} H100: left alone, none"]
    assert folding.sentences([*used, *others]) == [f"2 x GPU ({ONE}, 43): In use by pid 1.", *others]
    held = [f"Left as it is: GPU {each}: it is {each}." for each in (ONE, TWO)]
    assert folding.sentences(held) == [f"Left as it is: 2 x GPU ({ONE}, 43): it is <GPU>."]


def test_the_same_of_the_same_gpu_is_told_once():
    assert folding.sentences([f"GPU {ONE}: a"] * 2) == [f"GPU {ONE}: a"]
    assert folding.sentences([f"GPU {ONE}: a", f"GPU {TWO}: a", f"GPU {ONE}: a"]) == [f"2 x GPU ({ONE}, 43): a"]


def test_a_verb_is_no_model_and_a_uuid_that_names_something_is_kept():
    ill = [f"GPU {each} is not healthy after the change: it is slow." for each in (ONE, TWO)]
    held = [f"GPU {gpu}: {uuid} is held." for gpu, uuid in ((ONE, UUID), (TWO, OTHER_UUID))]
    assert folding.sentences([*ill, *held]) == [*ill, *held]


def test_an_error_of_several_lines_begins_as_it_was():
    assert folding.sentences([f"GPU {each}: In use.\nBy pid 1." for each in (ONE, TWO)]) == [
        f"2 x GPU ({ONE}, 43): In use.", "By pid 1.",
    ]  # fmt: skip


SENTENCE = strategies.one_of(
    strategies.text(alphabet="ab: GPU\n", max_size=20),
    strategies.builds("GPU {}: {}".format, strategies.sampled_from([ONE, TWO, THREE]), strategies.sampled_from(["a", "a\nb"])),
)


@given(strategies.lists(SENTENCE, max_size=8))
def test_no_sentence_and_no_gpu_is_lost(lines):
    text = "\n".join(folding.sentences(lines))
    for line in lines:
        gpu = next((each for each in (ONE, TWO, THREE) if f"GPU {each}: " in line), "")
        assert line in text or gpu.split(":")[1] in text


def test_changes_are_lines_and_the_same_ones_are_one():
    instances = {"old": {"mode": "disabled", "instances": []}, "new": {"mode": "enabled", "instances": ["3g@0", "3g@4"]}}
    consumers = {"old": {}, "new": {"web": "a"}}
    found = folding.changes({ONE: instances, TWO: json.loads(json.dumps(instances)), "consumers": consumers})
    assert found == {
        f"{ONE}, 43": "mode: disabled -> enabled; instances: none -> 3g@0, 3g@4", "consumers": {"web": "none -> a"},
    }  # fmt: skip


def test_a_value_of_any_kind_is_a_line():
    old, new = {"a": None, "b": {"x": [1, 2]}, "c": True, "same": 1}, {"a": 0, "b": {}, "c": False, "same": 1}
    assert folding.changes({ONE: {"old": old, "new": new}}) == {ONE: "a: none -> 0; b: x 1, 2 -> none; c: yes -> no"}
