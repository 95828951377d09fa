"""
Which GPU is meant by hand: one argument that takes an address, a UUID, ``all``, a pattern, a slice or a list, in every function.
"""

import inspect
import pathlib
import re

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import pillars

FIRST, SECOND = "0000:1b:00.0", "0000:43:00.0"
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def dgx(minion):
    """A DGX H100 whose first two GPUs have a slice."""
    bench = minion("dgx-h100")
    assert bench.call("gpu_mig.apply_layout", [FIRST, SECOND], ["3g.40gb"])["result"] is True
    return bench


def modes(bench):
    """Address -> whether MIG mode is on."""
    return {gpu: found["current"] for gpu, found in bench.call("gpu_mig.mode", "all").items()}


def test_a_change_takes_several_and_a_view_answers_by_address(dgx):
    assert [gpu for gpu, on in modes(dgx).items() if on] == [FIRST, SECOND]
    assert set(dgx.call("gpu_mig.mode", [FIRST])) == {FIRST}
    assert dgx.call("gpu_mig.mode", FIRST) == {"current": True, "pending": True}
    made = dgx.call("gpu_mig.set_mode", "0000:[0-9d]?:00.0", "enabled")
    assert made["result"] is True
    assert [gpu for gpu, on in modes(dgx).items() if not on] == ["0000:c3:00.0"]
    assert dgx.call("gpu_mig.set_mode", "*h100*", "disabled")["result"] is True and not any(modes(dgx).values())
    assert len(dgx.call("gpu.holders", "all")) == 8 and len(dgx.call("gpu.device", "NVIDIA H100*")) == 8


def test_a_uuid_in_any_case_and_a_slice_name_its_gpu(dgx):
    uuid = next(each["uuid"] for each in dgx.call("gpu.ids", data=True) if each["address"] == SECOND)
    [part] = [each for each in dgx.call("gpu.slices", SECOND)]
    for name in (uuid, uuid.upper().replace("GPU-", "gpu-"), part["name"], part["uuid"], part["uuid"].upper()):
        assert dgx.call("gpu.device", name)["address"] == SECOND, name
    assert dgx.call("gpu_mig.destroy", part["name"], "all")["result"] is True
    assert dgx.call("gpu.slices", SECOND) == [] and len(dgx.call("gpu.slices", FIRST)) == 1


def test_an_index_is_refused_with_what_it_stood_for(dgx):
    for index in (1, "1", [FIRST, 1]):
        with pytest.raises(CommandExecutionError) as caught:
            dgx.call("gpu_mig.set_mode", index, False)
        told = str(caught.value).splitlines()
        assert "is the index of a GPU, and indices move" in told[0]
        assert told[1].split() == ["index", "minor", "address", "UUID", "model"]
        [line] = [line.split() for line in told if SECOND in line]
        assert line[0] == "1" and line[3].startswith("GPU-")
    assert dgx.call("gpu.ids").splitlines()[0].startswith("index  minor  address")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("*A100*", "No GPU of this host is called like .A100"), (f"{FIRST}-7g.80gb-0", "No slice of this host is called"),
        ("0000:99:00.0", "is not among the GPUs of this host"), ("gpu0", "is not a PCI address"),
        ("MIG-39dcd782-7341-584d-a918-b129b63687b1", "No slice of this host is called"), ([], "No GPU is named"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_sentence(dgx, name, said):
    with pytest.raises(CommandExecutionError, match=said):
        dgx.call("gpu_mig.set_mode", name, False)
    assert modes(dgx)[FIRST] is True


def test_of_a_kind_only_those_are_meant_that_can_do_it(minion):
    bench = minion("mixed-vendors")
    able = [each["address"] for each in bench.call("gpu.devices") if "mps" in each["capabilities"]]
    assert 0 < len(able) < len(bench.call("gpu.devices")) and set(bench.call("gpu_mps.status", "all")) == set(able)
    other = next(each["address"] for each in bench.call("gpu.devices") if each["address"] not in able)
    with pytest.raises(CommandExecutionError, match=f"GPU {other}: .* can't do mps"):
        bench.call("gpu_mps.status", [able[0], other])
    with pytest.raises(CommandExecutionError, match="can't do partition|can't do mig"):
        minion("l4-pair").call("gpu_mig.mode", "all")


def test_a_host_without_a_gpu_has_none_to_mean(minion):
    with pytest.raises(CommandExecutionError, match="This host has no GPU"):
        minion("no-gpu").call("gpu.device", "all")
    assert minion("no-gpu").call("gpu.ids").splitlines()[0].split() == ["index", "minor", "address", "UUID", "model"]


def test_a_virtual_function_names_its_gpu(minion):
    bench = minion("arc-pro-b60", pillars.for_all("sriov", {"vf_count": 2}))
    assert all(state.result for state in bench.apply("gpu_slicing"))
    assert bench.call("gpu.device", "0000:03:00.1")["address"] == "0000:03:00.0"


def test_a_state_takes_a_list_too(dgx):
    done = dgx.state("gpu_mig.mode", "both", gpu=[FIRST, SECOND], enabled=False)
    assert done.result is True and set(done.changes) == {FIRST, SECOND} and not any(modes(dgx).values())


def test_the_argument_is_the_first_one_everywhere_and_is_called_gpu(dgx):
    """Functions that change something need it; ``gpu_boot.forget`` and ``gpu_slicing`` are of a record and of the host."""
    odd = []
    for path in sorted((ROOT / "_modules").glob("gpu*.py")):
        source = path.read_text(encoding="utf-8")
        for name, given in re.findall(r"^def ([a-z]\w*)\(([^)]*)\)", source, re.MULTILINE):
            names = [each.partition("=")[0].strip() for each in given.split(",")]
            if "gpu" in names and (names[0] != "gpu" or ("test=False" in given and "gpu=" in given.split(",")[0])):
                odd.append(f"{path.name}: {name}")
    assert odd == [] and inspect.isfunction(test_a_state_takes_a_list_too)
