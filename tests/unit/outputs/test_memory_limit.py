"""The files of limits of GPU memory."""

import pytest

from gpuslice import errors
from gpuslice.outputs import memory_limit
from gpuslice.outputs import unit_text
from gpuslice.outputs.consumer import Consumer

ADA, TRAIN = Consumer("ada", "user", user="ada"), Consumer("train-a.b_c", "service", unit="train.service")


def values(file, section, key):
    return unit_text.values(unit_text.settings(file.text), section, key)


def test_a_name_leads_to_a_slice_of_its_own_and_never_into_that_of_another():
    assert memory_limit.slice_of(TRAIN, None) == "gpuslicing-train\\x2da.b_c.slice"
    assert memory_limit.slice_of(ADA, 1000) == "user-1000.slice"


def test_a_service_needs_what_sets_its_limit_and_a_login_only_wants_it():
    of_service, of_user = memory_limit.drop_in(TRAIN, "train.service", None), memory_limit.drop_in(ADA, "", 1000)
    assert of_service.path == "/etc/systemd/system/train.service.d/51-gpu-slicing-memory.conf"
    assert values(of_service, "Unit", "Requires") == [memory_limit.limiting_unit(TRAIN)]
    assert values(of_service, "Service", "Slice") == ["gpuslicing-train\\x2da.b_c.slice"]
    assert of_user.path == "/etc/systemd/system/user@1000.service.d/51-gpu-slicing-memory.conf"
    assert values(of_user, "Unit", "Wants") == ["gpuslicing-ada.service"] and not values(of_user, "Unit", "Requires")


def test_what_sets_the_limit_ends_with_the_slice_and_names_each_gpu():
    file = memory_limit.setter(TRAIN, None, [("0000:01:00.0", 5), ("0000:02:00.0", 6)], ("/usr/bin/python3", "-m", "x"), "/a b")
    assert values(file, "Unit", "BindsTo") == ["gpuslicing-train\\x2da.b_c.slice"]
    [command] = values(file, "Service", "ExecStart")
    assert command == '/usr/bin/python3 -m x "gpuslicing-train\\\\x2da.b_c.slice" 0000:01:00.0=5 0000:02:00.0=6'
    assert values(file, "Service", "Environment") == ['"PYTHONPATH=/a b"']


def test_a_path_that_no_unit_can_hold_is_refused():
    with pytest.raises(errors.PolicyError):
        memory_limit.setter(TRAIN, None, [], ("/usr/bin/python3",), "/a\nb")
