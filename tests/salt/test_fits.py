"""
What still fits, room made by moving, and compute instances by hand, as they are typed; and that the documents print what is
printed.
"""

import json
import re

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import pages

GPU = "0000:1b:00.0"
LAYOUT = ["1g.10gb@0", "1g.20gb@2", "1g.10gb@5"]


def untimed(lines):
    """Lines without indentation and estimates, which are another machine's once it has learned how long a step takes."""
    return [re.sub(r", about [0-9.]+ s", "", line.strip()) for line in lines]


@pytest.fixture
def fragmented(minion):
    """A DGX H100 as the documents have it."""
    bench = minion("dgx-h100")
    assert bench.call("gpu_mig.apply_layout", GPU, LAYOUT)["result"]
    assert bench.call("gpu_consumer.serve", "web", slice="1g.20gb")["result"]
    return bench


def test_the_documents_print_what_is_printed(fragmented):
    told = pages.printed(f"gpu_mig.fits '{GPU}'")
    assert told == fragmented.call("gpu_mig.fits", GPU).splitlines()
    with pytest.raises(CommandExecutionError) as caught:
        fragmented.call("gpu_mig.create", GPU, "3g.40gb")
    assert pages.printed(f"gpu_mig.create '{GPU}' 3g.40gb") == [f"Error running 'gpu_mig.create': {caught.value}"]
    plan = untimed(fragmented.call("gpu_mig.defrag", GPU, "3g.40gb", test=True)["comment"].splitlines())
    shown = untimed(line for line in pages.printed(f"gpu_mig.defrag '{GPU}' 3g.40gb test=True") if line != "...")
    assert len(shown) == 4 and [line for line in plan if line in shown] == shown
    numbers = fragmented.call("gpu_mig.headroom")
    text = "\n".join(pages.printed("gpu_mig.headroom --out=json"))
    assert json.loads(text.rstrip(",") + "}}")["local"][GPU] == numbers[GPU] and len(numbers) == 8


def test_capabilities_have_what_still_fits(fragmented):
    found = fragmented.call("gpu.capabilities")
    assert found[GPU] == {"technologies": ["mig", "mps", "passthrough", "power", "time-slicing"],
                          "headroom": {"mig": fragmented.call("gpu_mig.headroom", GPU)[GPU]}}  # fmt: skip
    json.dumps(found)


def test_all_gpus_at_once_and_one_profile_as_data(fragmented):
    found = fragmented.call("gpu_mig.fits", "all", "4g.40gb", data=True)
    assert len(found) == 8 and found[GPU]["profiles"]["4g.40gb"]["moves"][1]["consumers"] == ["web"]
    assert found["0000:43:00.0"]["enabled"] is False and found["0000:43:00.0"]["profiles"]["4g.40gb"]["at"] == [0]
    text = fragmented.call("gpu_mig.fits", GPU, "7g.80gb")
    assert "7g.80gb: No other place of what is there makes room: together they take 12 of 8 memory slices" in text


def test_where_the_driver_is_missing_only_the_technologies_are_told(minion):
    bench = minion("dgx-h100", changes={"driver": {"version": "580.95.05", "loaded": False}})
    assert bench.call("gpu_mig.headroom") == {}
    each = bench.call("gpu.capabilities")[GPU]
    assert "mig" in each["technologies"] and isinstance(each["headroom"]["mig"], str)


@pytest.mark.parametrize("host", ["mi300x-8", "flex170", "no-gpu", "vgpu-guest"])
def test_a_host_without_mig_has_no_headroom_and_says_why_nothing_fits(minion, host):
    bench = minion(host)
    assert bench.call("gpu_mig.headroom") == {}
    assert all("mig" not in each.get("headroom", {}) for each in bench.call("gpu.capabilities").values())
    for function in ("gpu_mig.fits", "gpu_mig.defrag"):
        with pytest.raises(CommandExecutionError, match="can't do mig|has no GPU"):
            bench.call(function, "all")


@pytest.mark.slow
def test_typed_on_a_dgx(salt_call):
    gpu = {"model": "h100-80gb", "address": GPU, "mig": "enabled", "instances": LAYOUT}
    call = salt_call("dgx-h100", changes={"gpus": [gpu]})
    done = call("gpu_mig.defrag", GPU, "4g.40gb")
    assert done.retcode == 0 and done.data["result"] is True and "4g.40gb fits at 0 then" in done.data["comment"]
    assert call("gpu_mig.create", GPU, "4g.40gb@0").data["result"] is True
    refused = call("gpu_mig.create_ci", GPU, "4g.40gb@0", "1c")
    assert refused.retcode != 0 and "There is no room for 1c.4g.40gb in 4g.40gb@0, which has 4g.40gb at 0" in refused.stderr


@pytest.mark.slow
def test_typed_on_an_a30(salt_call):
    gpu = {"model": "a30-24gb", "address": "0000:41:00.0", "mig": "enabled", "instances": ["1g.6gb@0", "1g.6gb@2"]}
    call = salt_call("a30-pair", changes={"gpus": [gpu], "processes": []})
    done = call("gpu_mig.defrag", gpu["address"])
    assert done.retcode == 0 and len(done.data["changes"]) == 1
    assert "2g.12gb " in call("gpu_mig.fits", gpu["address"], "2g.12gb").data


def test_compute_instances_as_they_are_typed(minion):
    part = {"profile": "3g.20gb", "start": 4, "cis": [["1c.3g.20gb", 0]]}
    gpu = {"model": "a100-40gb", "address": "0000:07:00.0", "mig": "enabled", "instances": [part]}
    bench = minion("dgx-a100-40gb", changes={"gpus": [gpu]})
    name = f"{gpu['address']}-3g.20gb-4"
    assert bench.call("gpu_mig.create_ci", gpu["address"], name, "1c", count=2)["result"] is True
    assert [part["name"] for part in bench.call("gpu.slices")] == [f"{name}-1c-{at}" for at in (0, 1, 2)]
    assert bench.call("gpu_mig.destroy_ci", gpu["address"], f"{name}-1c-1")["result"] is True
    assert [part["name"] for part in bench.call("gpu.slices")] == [f"{name}-1c-{at}" for at in (0, 2)]
    with pytest.raises(CommandExecutionError, match="^profile is"):
        bench.call("gpu_mig.create_ci", gpu["address"], name, 1)
