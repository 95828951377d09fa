"""The files of limits of GPU memory."""

import pytest

from gpuslice import errors
from gpuslice.outputs import memory_limit
from gpuslice.outputs import unit_text
from gpuslice.outputs.consumer import Consumer

ADA, TRAIN = Consumer("ada", "user", user="ada"), Consumer("train-a.b_c", "service", unit="train.service")
PROGRAM = ("/usr/bin/python3", "-m", memory_limit.MODULE)


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
    file = memory_limit.setter(TRAIN, None, [("0000:01:00.0", 5), ("0000:02:00.0", 6)], PROGRAM, "/a b")
    assert values(file, "Unit", "BindsTo") == ["gpuslicing-train\\x2da.b_c.slice"]
    [command] = values(file, "Service", "ExecStart")
    program, limits = f"/usr/bin/python3 -m {memory_limit.MODULE}", "0000:01:00.0=5 0000:02:00.0=6"
    assert command == f'{program} "gpuslicing-train\\\\x2da.b_c.slice" {limits}'
    assert values(file, "Service", "Environment") == ['"PYTHONPATH=/a b"']


def test_a_path_that_no_unit_can_hold_is_refused():
    with pytest.raises(errors.PolicyError):
        memory_limit.setter(TRAIN, None, [], PROGRAM, "/a\nb")


def test_a_slice_that_is_nobodys_wants_what_limits_it_for_each_gpu():
    unit, wants = memory_limit.of_slice("gpu-batch.slice", "0000:03:00.0", 4096, PROGRAM, "/a b")
    assert unit.path == "/etc/systemd/system/gpuslicing-vram-0000:03:00.0-gpu-batch.service"
    assert wants.path == "/etc/systemd/system/gpu-batch.slice.d/0000:03:00.0-51-gpu-slicing-memory.conf"
    assert values(wants, "Unit", "Wants") == ["gpuslicing-vram-0000:03:00.0-gpu-batch.service"]
    assert values(unit, "Unit", "BindsTo") == ["gpu-batch.slice"]
    name = unit.path.rpartition("/")[2]
    assert memory_limit.limited_slice(name, "0000:03:00.0") == "gpu-batch.slice"
    assert memory_limit.mebibytes_of(unit.text, "0000:03:00.0") == 4096
    assert memory_limit.limited_slice(name, "0000:04:00.0") == memory_limit.limited_slice("ssh.service", "0000:03:00.0") == ""
    assert memory_limit.mebibytes_of(unit.text, "0000:04:00.0") is None


def test_no_consumer_has_a_unit_that_is_named_as_that_of_a_slice():
    consumer = Consumer("vram-0000:03:00.0-gpu", "service")
    assert memory_limit.limited_slice(memory_limit.limiting_unit(consumer), "0000:03:00.0") == ""
