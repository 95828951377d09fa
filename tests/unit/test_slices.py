"""
What slices are called, and which of them are nobody's to give because others stand on them.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.model import Slice
from gpuslice.model import slice_name
from gpuslice.model import with_taken

GPU, FUNCTION = "0000:1b:00.0", "0000:1b:00.4"
INSTANCE = f"{GPU}-3g.40gb-4"


def part(name, of=""):
    """A slice of which nothing but its place matters."""
    return Slice(GPU, "mig", "1g.10gb", name, name=name, of=of)


def taken(*parts):
    """The names of those of these slices that are taken; the order is the one that was given."""
    found = with_taken(iter(parts))
    assert [one._replace(taken=False) for one in found] == list(parts)
    return {one.name for one in found if one.taken}


# -- names ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("places", "name"),
    [
        ((), "0000:1b:00.0"),
        (("3g.40gb", 4), "0000:1b:00.0-3g.40gb-4"),
        (("1g.10gb+me", 0), "0000:1b:00.0-1g.10gb.me-0"),
        (("3g.40gb", 4, "1c", 2), "0000:1b:00.0-3g.40gb-4-1c-2"),
        (("cpx", 3), "0000:1b:00.0-cpx-3"),
        (("replica", 2), "0000:1b:00.0-replica-2"),
    ],
)
def test_a_name_says_where_a_slice_is(places, name):
    assert slice_name(GPU, *places) == name


def test_the_name_of_what_stands_on_a_slice_begins_with_the_slices_own():
    assert slice_name(slice_name(GPU, "1g.10gb", 0), "mps", 1) == "0000:1b:00.0-1g.10gb-0-mps-1"


@given(st.lists(st.text() | st.integers(0, 2**16)))
def test_a_name_has_only_characters_that_everybody_takes(places):
    assert re.fullmatch(r"0000:1b:00\.0(-[A-Za-z0-9_.:-]*)*", slice_name(GPU, *places))


# -- who stands on whom -----------------------------------------------------------------------------------------------
def test_nothing_is_taken_where_nothing_stands_on_another():
    assert taken() == taken(part(GPU), part(FUNCTION)) == set()


def test_the_instance_behind_a_vgpu_is_taken_and_its_neighbours_are_not():
    other = part(f"{GPU}-3g.40gb-0")
    assert taken(part(INSTANCE), other, part(FUNCTION, INSTANCE)) == {INSTANCE}


def test_the_compute_instances_of_a_whole_are_taken_with_it():
    inside = [part(f"{INSTANCE}-1c-{n}") for n in range(3)]
    assert taken(*inside, part(FUNCTION, INSTANCE)) == {one.name for one in inside}


def test_a_name_that_only_begins_alike_is_no_part():
    assert taken(part(f"{GPU}-1g.10gb-1"), part(f"{GPU}-1g.10gb-11"), part(FUNCTION, f"{GPU}-1g.10gb-1")) == {f"{GPU}-1g.10gb-1"}


def test_what_stands_on_a_slice_is_no_part_of_it():
    replicas = [part(f"{GPU}-replica-{n}", GPU) for n in range(2)]
    assert taken(part(GPU), *replicas) == {GPU}


def test_a_slice_that_stands_on_another_is_taken_by_what_stands_on_it():
    # A vGPU on a MIG instance is shared in time.
    replicas = [part(f"{FUNCTION}-replica-{n}", FUNCTION) for n in range(2)]
    assert taken(part(INSTANCE), part(FUNCTION, INSTANCE), *replicas) == {INSTANCE, FUNCTION}


def test_of_two_replicas_only_the_one_that_is_shared_again_is_taken():
    replicas = [part(f"{GPU}-replica-{n}", GPU) for n in range(2)]
    client = part(f"{GPU}-replica-1-mps-0", f"{GPU}-replica-1")
    assert taken(part(GPU), *replicas, client) == {GPU, f"{GPU}-replica-1"}


def test_a_part_of_what_is_taken_is_taken_though_it_is_shared_itself():
    inside, replica = part(f"{INSTANCE}-1c-0"), part(f"{INSTANCE}-1c-0-replica-0", f"{INSTANCE}-1c-0")
    assert taken(inside, replica) == {inside.name}
    assert taken(inside, replica, part(FUNCTION, INSTANCE)) == {inside.name, replica.name}


#: Slices that stand on each other in towers: each is a number of the slice that it stands on (itself: on the silicon).
TOWERS = st.lists(st.integers(0, 7), max_size=8)


def towers(numbers):
    """Slices on each other, named as time-slicing and MPS name theirs, or by a function of its own as a vGPU is."""
    made = []
    for place, number in enumerate(numbers):
        below = made[number].name if number < place else ""
        name = f"0000:1b:00.{place}" if not below or place % 3 == 0 else slice_name(below, "replica", place)
        made.append(part(name, below))
    return made


@given(TOWERS)
def test_taken_is_exactly_what_something_stands_on(numbers):
    made = towers(numbers)
    assert taken(*made) == {one.of for one in made} - {""}


@given(TOWERS, st.randoms())
def test_the_order_of_slices_does_not_matter_and_once_is_enough(numbers, order):
    made = towers(numbers)
    mixed = order.sample(made, len(made))
    assert taken(*mixed) == taken(*made)
    assert with_taken(with_taken(made)) == with_taken(made)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", *"abc"]))))
def test_names_that_make_no_sense_end_in_something(pairs):
    assert len(with_taken(part(*pair) for pair in pairs)) == len(pairs)
