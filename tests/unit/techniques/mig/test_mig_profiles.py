"""Profile names: grammar, lookup in a GPU's table, and packing of compute instances."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.catalog import nvidia
from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig import profile_names
from gpuslice.techniques.mig.profile_names import ProfileName

GPU = "0000:07:00.0"
H100 = nvidia.mig_table("h100-80gb")
TABLES = {key: nvidia.mig_table(key) for key in nvidia.MODELS if nvidia.mig_table(key)}

slices = st.integers(1, 9)
attributes = st.one_of(
    st.just(("-me",)), st.sets(st.sampled_from(profile_names.ATTRIBUTES)).map(lambda words: tuple(sorted(words)))
)


@st.composite
def names(draw):
    """Any profile name that the grammar allows."""
    size = draw(slices)
    ci = draw(st.none() | st.integers(1, size))
    return ProfileName(ci, size, draw(st.integers(0, 300)), draw(attributes), draw(st.none() | st.integers(0, 15)))


@given(names())
def test_a_name_that_is_written_reads_back_the_same(name):
    assert profile_names.parse(str(name)) == name


@given(names(), st.sampled_from(["{}", "MIG {}", " {} "]))
def test_case_and_the_word_mig_do_not_matter(name, form):
    assert profile_names.parse(form.format(str(name).upper())) == name


@given(st.text(alphabet="0123456789gbc.+-me@ ,x", max_size=12))
def test_any_text_is_a_name_or_a_sentence(text):
    try:
        name = profile_names.parse(text)
    except ValueError as err:
        assert text in str(err)
    else:
        assert profile_names.parse(str(name)) == name


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1g.10gb", ProfileName(None, 1, 10)),
        ("1c.3g.40gb", ProfileName(1, 3, 40)),
        ("1g.5gb+me", ProfileName(None, 1, 5, ("me",))),
        ("1g.24gb+me.all", ProfileName(None, 1, 24, ("me.all",))),
        ("1g.24gb-me", ProfileName(None, 1, 24, ("-me",))),
        ("2g.48gb+me,gfx", ProfileName(None, 2, 48, ("gfx", "me"))),
        ("3g.40gb@4", ProfileName(None, 3, 40, (), 4)),
        ("1g.0gb", ProfileName(None, 1, 0)),
    ],
)
def test_the_forms_of_a_name(text, parts):
    assert profile_names.parse(text) == parts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1g", "not a profile name"),
        ("0g.5gb", "not a profile name"),
        ("3g.40gb@", "not a profile name"),
        ("3g.40gb@-1", "not a profile name"),
        ("1g.5gb+me-me", "not a profile name"),
        ("1g.5gb+gfk", "did you mean '+gfx'"),
        ("1g.5gb+zzz", "there are +gfx, +me, +me.all and -me"),
        ("1g.5gb+me,me", "twice"),
        ("4c.3g.40gb", "4 slices in a GPU instance that has 3"),
        (5, "5"),
        (None, "None"),
    ],
)
def test_what_is_no_name_is_refused_with_a_reason(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        profile_names.parse(text)


def test_every_profile_of_every_model_is_found_by_its_own_name():
    for key, table in TABLES.items():
        for profile in table.profiles:
            found, ci = profile_names.resolve(profile.name.upper(), table, nvidia.aliases(key))
            assert (found, ci) == (profile, None)
            for part in profile.cis:
                found, ci = profile_names.resolve(part.name, table, nvidia.aliases(key))
                assert (found, ci) == (profile, None if part.slices == profile.slices else part)


def test_names_of_other_driver_versions_are_found():
    table, aliases = nvidia.mig_table("gb200-186gb"), nvidia.aliases("gb200-186gb")
    assert profile_names.resolve("1g.24gb", table, aliases)[0].name == "1g.23gb"
    assert profile_names.resolve("7g.189gb@0", table, aliases)[0].name == "7g.186gb"
    assert profile_names.resolve("2c.3g.95gb", table, aliases)[1].name == "2c.3g.93gb"


def test_two_profiles_of_the_same_slices_are_told_apart_by_memory_and_attributes():
    assert profile_names.resolve("1g.10gb", H100, {})[0].id == 19
    assert profile_names.resolve("1g.10gb+me", H100, {})[0].id == 20
    assert profile_names.resolve("1g.20gb", H100, {})[0].id == 15


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("1g.12gb", "The nearest one is 1g.10gb."),
        ("3g.40gb+gfx", "The nearest one is 3g.40gb."),
        ("6g.60gb", "The nearest one is"),
        ("nonsense", "'nonsense' is not a profile name"),
    ],
)
def test_a_profile_that_the_gpu_lacks_is_named_with_what_it_has(name, said):
    with pytest.raises(errors.ProfileMismatch) as caught:
        profile_names.resolve(name, H100, {}, GPU)
    assert GPU in str(caught.value)
    assert said in str(caught.value)
    assert "It has 1g.10gb, 1g.10gb+me, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb." in str(caught.value)


def test_a_compute_instance_size_that_does_not_exist_is_refused():
    with pytest.raises(
        errors.ProfileMismatch, match=r"4g.40gb has no compute instance of 3 slices. It has 1c.4g.40gb, 2c.4g.40gb"
    ):
        profile_names.resolve("3c.4g.40gb", H100, {}, GPU)


def with_cis(profile, *cis):
    """A table with one GPU instance profile that has these compute instance profiles."""
    return replace(H100, profiles=(replace(H100.profile(profile), cis=cis),))


def test_of_two_compute_instance_profiles_of_one_size_the_plain_one_is_taken():
    cis = H100.profile("7g.80gb").cis
    table = with_cis("7g.80gb", replace(cis[0], enum=7, id=7), *cis)
    assert profile_names.resolve("1c.7g.80gb", table, {})[1] == cis[0]


def test_parts_that_cannot_lie_side_by_side_get_a_gpu_instance_each():
    one, two, _ = H100.profile("3g.40gb").cis
    table = with_cis("3g.40gb", replace(one, starts=(0, 1)), two)
    assert made([("1c.3g.40gb", None, 1), ("2c.3g.40gb", None, 1)], table=table) == [
        ("3g.40gb", None, ("1c.3g.40gb",)),
        ("3g.40gb", None, ("2c.3g.40gb",)),
    ]


def made(entries, compute_instances=1, table=H100):
    """The wishes as plain tuples, in a stable order."""
    found = profile_names.wishes(entries, table, {}, compute_instances, GPU)
    return sorted((each.profile, each.start, tuple(name for name, _ in each.cis)) for each in found)


def test_plain_names_are_gpu_instances_with_the_compute_instance_that_fills_them():
    assert made([("1g.10gb", None, 2), ("3g.40gb", 4, 1)]) == [("1g.10gb", None, ()), ("1g.10gb", None, ()), ("3g.40gb", 4, ())]
    assert made([("3c.3g.40gb", None, 1)]) == [("3g.40gb", None, ())]


@pytest.mark.parametrize(
    ("profile", "number", "cis"),
    [
        ("7g.80gb", 2, ("3c.7g.80gb",) * 2),
        ("7g.80gb", 3, ("2c.7g.80gb",) * 3),
        ("7g.80gb", 4, ("1c.7g.80gb",) * 4),
        ("4g.40gb", 2, ("2c.4g.40gb",) * 2),
        ("3g.40gb", 2, ("1c.3g.40gb",) * 2),
    ],
)
def test_equal_compute_instances_are_the_largest_of_which_so_many_fit(profile, number, cis):
    assert made([(profile, None, 1)], number) == [(profile, None, cis)]


def test_more_compute_instances_than_fit_are_refused():
    with pytest.raises(errors.ProfileMismatch, match="which holds 3 at most") as caught:
        made([("3g.40gb", None, 1)], 4)
    assert caught.value.gpu == GPU


def test_parts_are_packed_into_few_gpu_instances():
    assert made([("1c.3g.40gb", None, 4), ("2c.3g.40gb", None, 1)]) == [
        ("3g.40gb", None, ("1c.3g.40gb", "1c.3g.40gb", "1c.3g.40gb")),
        ("3g.40gb", None, ("2c.3g.40gb", "1c.3g.40gb")),
    ]
    # Three and two and two slices only fit when the placement of the three is left to the second half.
    assert made([("2c.7g.80gb", None, 2), ("3c.7g.80gb", None, 1)]) == [
        ("7g.80gb", None, ("3c.7g.80gb", "2c.7g.80gb", "2c.7g.80gb"))
    ]


def test_parts_with_one_pin_share_a_gpu_instance_and_free_parts_fill_it():
    assert made([("1c.3g.40gb", 4, 1), ("1c.3g.40gb", 0, 2), ("1c.3g.40gb", None, 2)]) == [
        ("3g.40gb", 0, ("1c.3g.40gb",) * 3),
        ("3g.40gb", 4, ("1c.3g.40gb",) * 2),
    ]


def test_more_parts_than_a_pinned_gpu_instance_holds_are_refused():
    with pytest.raises(
        errors.ProfileMismatch, match=r"pinned to 3g.40gb@4 do not fit into one GPU instance: it has 3 compute slices"
    ):
        made([("2c.3g.40gb", 4, 2)])


parts = st.sampled_from([ci.name for profile in H100.profiles for ci in profile.cis if ci.slices < profile.slices])


@given(st.lists(st.tuples(parts, st.none() | st.sampled_from([0, 4]), st.integers(1, 3)), max_size=6))
def test_packing_loses_nothing_and_fills_no_instance_beyond_its_slices(entries):
    try:
        found = profile_names.wishes(entries, H100, {})
    except errors.ProfileMismatch:
        return
    wanted = Counter()
    for name, _, count in entries:
        wanted[name] += count
    assert Counter(name for wish in found for name, _ in wish.cis) == wanted
    for wish in found:
        assert sum(profile_names.parse(name).ci_slices for name, _ in wish.cis) <= H100.profile(wish.profile).slices
    pins = Counter((wish.profile, wish.start) for wish in found if wish.start is not None)
    assert set(pins.values()) <= {1}


@pytest.mark.parametrize(
    "entries", [[("1c.3g.40gb", None, 5)], [("2c.3g.40gb", 4, 1), ("1c.3g.40gb", 4, 1)], [("3g.40gb", None, 2)]]
)
def test_the_planner_takes_the_wishes(entries):
    layout = placement.solve(H100, (), profile_names.wishes(entries, H100, {})).layout
    assert [each.profile for each in layout] == ["3g.40gb", "3g.40gb"][: len(layout)]
    assert layout
