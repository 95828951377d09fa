"""
What each virtual function is to get, what files say of it, and which files a driver has: pure parts of SR-IOV.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.catalog import intel
from gpuslice.drivers.sessions import Sessions
from gpuslice.drivers.sriov_files import Attribute
from gpuslice.drivers.sriov_files import Files
from gpuslice.engine import Engine
from gpuslice.model import Gpu
from gpuslice.policy import build
from gpuslice.rules import Rules
from gpuslice.techniques.sriov import shares
from gpuslice.techniques.sriov.technique import Sriov
from tests.support.hosts import config
from tests.support.techniques import plan_one

B60 = Gpu("0000:03:00.0", "intel", "e211", model="Intel Arc Pro B60", catalog_key="arc-pro-b60", memory_mib=24576)
FLEX = Gpu("0000:3c:00.0", "intel", "56c0", model="Intel Data Center GPU Flex 170", catalog_key="flex-170", memory_mib=16384)
MAX = Gpu("0000:29:00.0", "intel", "0bd5", model="Intel Data Center GPU Max 1550", catalog_key="max-1550", memory_mib=131072)
FIELDS = ("vram", "ggtt", "contexts", "doorbells", "exec_quantum_ms", "preempt_timeout_us")
PLAIN = {"vf_count": 2, "profile": "fair", "scheduling": {}, "vfs": {}}


def files(total=4, tiles=1, **keys):
    """Files of the backport's layout, with a file for everything."""
    listed = [Attribute(f"pf/gt{tile}/policies/sched_if_idle", 0, "sched_if_idle", tile) for tile in range(tiles)]
    for owner in range(total + 1):
        names = FIELDS if owner else FIELDS[4:]
        where = f"vf{owner}" if owner else "pf"
        listed += [Attribute(f"{where}/gt{tile}/{name}", owner, name, tile) for tile in range(tiles) for name in names]
    return Files("prelim_iov", "/root", tuple(listed), **keys)


# -- what each gets ------------------------------------------------------------------------------------------------------
def test_equal_shares_are_the_drivers_own_and_nothing_is_written():
    assert shares.wish(B60, files(), PLAIN, None) == shares.Wish({}, {})


def test_auto_is_fair_where_the_vendor_has_no_preset_and_a_named_preset_is_refused_there():
    new = Gpu("0000:03:00.0", "intel", "0001", model="a GPU without presets", memory_mib=24576)
    assert intel.preset("0001", 2) is None
    assert shares.wish(new, files(), {**PLAIN, "profile": "auto"}, None) == shares.wish(new, files(), PLAIN, None)
    with pytest.raises(errors.ProfileMismatch, match="no preset Fixed_30fps for a GPU without presets with 2 virtual functions"):
        shares.wish(new, files(), {**PLAIN, "profile": "Fixed_30fps"}, None)


@pytest.mark.parametrize("count", sorted(intel.SRIOV_PRESETS["56c0"]["by_vfs"]))
@pytest.mark.parametrize("policy_name", sorted(intel.SCHEDULERS))
def test_a_preset_is_what_the_vendors_table_says(count, policy_name):
    there = files(31)
    found = shares.wish(FLEX, there, {**PLAIN, "vf_count": count, "profile": policy_name}, None)
    row = intel.SRIOV_PRESETS["56c0"]["by_vfs"][count]
    assert len(found.quotas) == count
    for number in range(1, count + 1):
        assert found.quotas[number] == {"vram": row[0], "contexts": row[2], "doorbells": row[3], "ggtt": row[4]}
        quantum, timeout = intel.vf_schedule(policy_name, count)
        assert found.schedule[number] == {"exec_quantum_ms": quantum, "preempt_timeout_us": timeout}
    assert found.schedule[0]["exec_quantum_ms"] == 20
    assert found.schedule[0]["sched_if_idle"] == int(policy_name == "Fixed_30fps")


def test_the_smaller_memory_is_taken_where_ecc_leaves_less():
    wanted = {**PLAIN, "vf_count": 2, "profile": "auto"}
    free = 15 * 2**30
    assert shares.wish(FLEX, files(), wanted, free).quotas[1]["vram"] == 7098859520
    assert shares.wish(FLEX, files(), wanted, 16777216000).quotas[1]["vram"] == 8388608000


def test_one_function_of_two_tiles_has_both_and_several_take_turns():
    there = files(4, tiles=2)
    one = shares.wish(MAX, there, {**PLAIN, "vf_count": 1, "profile": "auto"}, None)
    values = shares.values_of(there, one, 1)
    assert values["vf1/gt0/vram"] == values["vf1/gt1/vram"] == 128849018880 // 2
    two = shares.wish(MAX, there, {**PLAIN, "vf_count": 2, "profile": "auto"}, None)
    values = shares.values_of(there, two, 2)
    assert [values[f"vf{n}/gt{tile}/vram"] for n in (1, 2) for tile in (0, 1)] == [0, 64424509440, 64424509440, 0]
    assert values["vf1/gt0/exec_quantum_ms"] == values["vf1/gt1/exec_quantum_ms"] > 0
    assert shares.shares(there, values, 2)[2]["vram"] == 64424509440


@given(
    st.integers(1, 24),
    st.integers(2**30, 2**36),
    st.dictionaries(st.integers(1, 24), st.integers(1, 4096), max_size=6),
)
def test_quotas_never_exceed_what_there_is(count, usable, own):
    own = {str(number): {"vram_mib": mib} for number, mib in own.items() if number <= count}
    wanted = {**PLAIN, "vf_count": count, "vfs": own}
    try:
        found = shares.wish(B60, files(24), wanted, usable)
    except errors.ProfileMismatch as err:
        assert B60.address in str(err) and str(usable // 2**20) in str(err)
        return
    assert bool(found.quotas) == bool(own)
    given_mib = {number: values["vram_mib"] * 2**20 for number, values in own.items()}
    for number, values in found.quotas.items():
        assert values["vram"] == given_mib.get(str(number), values["vram"]) and values["vram"] > 0
    assert sum(values["vram"] for values in found.quotas.values()) <= usable
    for field, total in (("ggtt", 4 * 2**30), ("contexts", 65535), ("doorbells", 256)):
        assert sum(values[field] for values in found.quotas.values()) <= total


@given(st.integers(1, 24))
def test_what_the_driver_divides_is_told_from_what_is_written(count):
    there = files(24)
    fair = {
        f"vf{number}/gt0/{field}": value
        for number in range(1, count + 1)
        for field, value in {
            "vram": 2**30,
            "ggtt": 2**27,
            "contexts": 1 << (65535 // count).bit_length() - 1,
            "doorbells": 1 << (256 // (count + 1)).bit_length() - 1,
        }.items()
    }
    assert shares.provisioning(there, fair, count) == "fair"
    assert shares.provisioning(there, fair, 0) == "custom"
    written = shares.wish(B60, there, {**PLAIN, "vf_count": count, "vfs": {"1": {"vram_mib": 100}}}, 2**34)
    values = shares.values_of(there, written, count)
    assert shares.provisioning(there, values, count) == "custom"
    assert shares.provisioning(there, {}, 0) == "fair"


def test_rounding_is_no_difference_and_nothing_is_no_rounding():
    mib = 2**20
    assert shares.close("vram", 100 * mib, 99 * mib) and not shares.close("vram", 110 * mib, 99 * mib)
    assert not shares.close("vram", 0, mib) and shares.close("vram", 0, 0)
    assert not shares.close("contexts", 1000, 1024)


def test_a_switch_says_who_divides():
    there = files(switch="pf/auto_provisioning")
    assert shares.provisioning(there, {"pf/auto_provisioning": 1}, 2) == "fair"
    assert shares.provisioning(there, {"pf/auto_provisioning": 0}, 2) == "custom"


def test_a_layout_in_words_tells_equal_functions_once():
    values = {f"vf{number}/gt0/lmem_quota": 2**30 for number in (1, 2, 3)}
    assert shares.describe({**values, "pf/gt0/exec_quantum_ms": 20, "vf4/gt1/lmem_quota": 2**29}) == {
        "pf": "exec_quantum_ms 20",
        "vf1-vf3": "lmem_quota 1024 MiB",
        "vf4": "gt1 lmem_quota 512 MiB",
    }


# -- the pillar ----------------------------------------------------------------------------------------------------------
def test_numbers_of_functions_may_be_ints_or_texts():
    for key in (1, "1"):
        assert build.section("sriov", {"vfs": {key: {"vram_mib": 5}}})["vfs"] == {"1": {"vram_mib": 5}}


@pytest.mark.parametrize("vfs", [{0: {}}, {-1: {}}, {"x": {}}, {True: {}}, {1: {}, "1": {}}, [1], {1: {"vram_mib": 0}}])
def test_wrong_functions_are_mistakes(vfs):
    with pytest.raises(errors.PolicyError, match="sriov:vfs"):
        build.section("sriov", {"vfs": vfs})


# -- on a machine --------------------------------------------------------------------------------------------------------
def sriov(host):
    """The technique on a host."""
    return Sriov(host, Sessions(host))


def opened(host):
    engine = Engine(config(host))
    tool = engine.tools.get("sriov")
    return engine, tool, engine.gpus[0]


@pytest.mark.parametrize(
    ("layout", "name", "attribute"),
    [
        ("sriov_admin", "sriov_admin", "vf1/profile/vram_quota"),
        ("sriov_admin-6.19", "sriov_admin", "vf1/profile/exec_quantum_ms"),
        ("debugfs", "debugfs", "sriov/vf1/tile0/gt1/contexts_quota"),
        ("debugfs-old", "debugfs", "gt1/vf1/doorbells_quota"),
    ],
)
def test_the_files_are_picked_by_what_is_there(simulated, layout, name, attribute):
    gpu = {"vendor": "intel", "device": "e211", "address": "0000:03:00.0", "sriov_totalvfs": 2, "sriov_files": layout}
    _, tool, one = opened(simulated("arc-pro-b60", gpus=[gpu]))
    state = tool.observe(one)
    assert state.files.layout == name and attribute in state.files.by_path()


def test_a_gt_without_memory_of_its_own_is_no_tile(simulated):
    root, gpu = "/sys/class/drm/card0/prelim_iov", {"vendor": "intel", "device": "7d55", "address": "0000:3c:00.0"}
    names = {"gt0": ("ggtt_quota", "contexts_quota", "doorbells_quota"), "gt1": ("contexts_quota", "doorbells_quota")}
    paths = [f"{root}/vf{n}/{gt}/{name}" for n in (1, 2) for gt, listed in names.items() for name in listed]
    paths += [f"{root}/pf/{gt}/exec_quantum_ms" for gt in names]
    described = {"gpus": [{**gpu, "driver": "i915", "sriov_totalvfs": 2}], "files": dict.fromkeys(paths, "0")}
    _, tool, one = opened(simulated("flex170", **described))
    there = tool.observe(one).files
    assert there.tiles == 1
    wanted = {**PLAIN, "vfs": {"1": {"contexts": 100}, "2": {"contexts": 100}}}
    values = shares.values_of(there, shares.wish(one, there, wanted, None), 2)
    assert [values[f"vf{n}/{gt}/contexts_quota"] for n in (1, 2) for gt in ("gt0", "gt1")] == [100] * 4


def blind(host, gone=(), broken=()):
    """A simulated machine of which some files are missing (``gone``) or can't be read (``broken``)."""

    class Machine(type(host)):
        """The machine without these files."""

        def exists(self, path):
            return path.rpartition("/")[2] not in gone and super().exists(path)

        def read(self, path):
            if path.rpartition("/")[2] in (*gone, *broken):
                raise OSError(5, "Input/output error", path)
            return super().read(path)

    return Machine(host.description_path, host.state_dir)


@pytest.mark.parametrize("name", ["sriov_numvfs", "sriov_totalvfs"])
def test_a_number_that_can_not_be_read_is_no_zero(simulated, name):
    with pytest.raises(errors.DriverError, match=f"{name} can't be read") as caught:
        sriov(blind(simulated("arc-pro-b60"), broken=[name])).observe(B60)
    assert B60.address in str(caught.value)


def test_a_kernel_without_autoprobe_always_gives_functions_to_the_hosts_driver(simulated):
    tool = sriov(blind(simulated("arc-pro-b60"), gone=["sriov_drivers_autoprobe"]))
    state = tool.observe(B60)
    assert tool.report(B60, state)["autoprobe"] is True
    plan = plan_one(tool, B60, state, {"vf_count": 2, "profile": "fair", "autoprobe": True})
    assert [step.action for step in plan.steps] == ["set_count"]
    with pytest.raises(errors.Unsupported, match=r"sriov_drivers_autoprobe is of Linux 4.13") as caught:
        plan_one(tool, B60, state, {"vf_count": 2, "profile": "fair"})
    assert B60.address in str(caught.value) and plan_one(tool, B60, state, {"vf_count": 0}).steps == ()


@pytest.mark.parametrize(("offset", "stride"), [("0", "0"), ("4", "0")])
def test_addresses_that_the_device_does_not_tell_before_are_checked_after(simulated, offset, stride):
    told = {"sriov_offset": offset, "sriov_stride": stride}

    class Silent(type(simulated("arc-pro-b60"))):
        """A device whose offset and stride are zero while it has no functions, as the specification allows."""

        def read(self, path):
            return told.get(path.rpartition("/")[2]) or super().read(path)

    host = simulated("arc-pro-b60")
    tool = sriov(Silent(host.description_path, host.state_dir))
    wanted = {"vf_count": 2, "profile": "fair", "autoprobe": True, "vf_devices": ["0000:03:00.1", "0000:03:00.5"]}
    made = plan_one(tool, B60, tool.observe(B60), wanted)
    assert tool.expected(B60, made.after) == []
    for step in made.steps:
        tool.run(B60, step)
    assert [part.name for part in tool.expected(B60, made.after)] == ["0000:03:00.1", "0000:03:00.2"]
    with pytest.raises(errors.PolicyError, match="names 0000:03:00.5, .*They are 0000:03:00.1, 0000:03:00.2"):
        plan_one(tool, B60, tool.observe(B60), wanted)
    assert plan_one(tool, B60, tool.observe(B60), {**wanted, "vf_devices": ["0000:03:00.2"]}).steps == ()


def test_a_function_that_was_lost_is_no_function(simulated):
    host = simulated("arc-pro-b60")
    tool, wanted = sriov(host), {"vf_count": 2, "profile": "fair", "autoprobe": True}
    for step in plan_one(tool, B60, tool.observe(B60), wanted).steps:
        tool.run(B60, step)
    assert plan_one(tool, B60, tool.observe(B60), wanted).steps == ()

    class Lossy(type(host)):
        """A machine on which somebody removed the second function from the bus."""

        def exists(self, path):
            return not path.endswith("devices/0000:03:00.2") and super().exists(path)

    tool = sriov(Lossy(host.description_path, host.state_dir))
    assert tool.report(B60, tool.observe(B60))["vfs"][0]["address"] == "0000:03:00.1"
    assert [step.args for step in plan_one(tool, B60, tool.observe(B60), wanted).steps] == [{"count": 0}, {"count": 2}]


def test_equal_shares_that_are_far_too_small_are_told_and_left(simulated):
    _, tool, one = opened(simulated("arc-pro-b60"))
    for step in plan_one(tool, one, tool.observe(one), {"vf_count": 2, "vfs": {n: {"vram_mib": 4096} for n in ("1", "2")}}).steps:
        tool.run(one, step)
    plan = plan_one(tool, one, tool.observe(one), {"vf_count": 2})
    assert plan.steps == () and "each has 4096 MiB, where equal shares would be about 12288 MiB" in plan.note
    for count in (0, 2):
        for step in plan_one(tool, one, tool.observe(one), {"vf_count": count}).steps:
            tool.run(one, step)
    assert plan_one(tool, one, tool.observe(one), {"vf_count": 2}).note == ""


def test_functions_that_come_late_are_waited_for(simulated):
    host = simulated("arc-pro-b60", faults=[{"call": "write", "nth": 1, "lie": True}])
    waits = []

    class Patient(type(host)):
        """A machine whose functions appear while somebody waits."""

        def sleep(self, seconds):
            waits.append(seconds)
            with self.change() as state:
                state["gpus"]["0000:03:00.0"]["numvfs"] = min(2, len(waits))

    late = Patient(host.description_path, host.state_dir)
    tool = sriov(late)
    tool._run_set_count(B60, 2)
    assert len(waits) == 2


def test_waiting_has_an_end(simulated):
    host = simulated("arc-pro-b60")
    waits = []

    class Patient(type(host)):
        """A machine on which time passes at once."""

        def sleep(self, seconds):
            waits.append(seconds)

    with pytest.raises(errors.DriverError, match="2 virtual functions were asked for, the kernel says 0 and 0 are there"):
        sriov(Patient(host.description_path, host.state_dir)).wait_for(B60, 2)
    assert 1 < sum(waits) < 10


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("ENOENT", errors.Unsupported),
        ("ENOMEM", errors.DriverError),
        ("EBUSY", errors.ResourceConflict),
        ("ENOSPC", errors.ProfileMismatch),
        ("EUCLEAN", errors.ResourceConflict),
        ("ECANCELED", errors.Unhealthy),
        ("ENODEV", errors.Unsupported),
        ("EIO", errors.DriverError),
        ("EROFS", errors.PermissionDenied),
        ("EPROTO", errors.DriverError),
    ],
)
def test_each_answer_of_the_kernel_is_a_sentence(simulated, error, kind):
    host = simulated("arc-pro-b60", faults=[{"call": "write", "nth": 1, "error": error}])
    with pytest.raises(kind) as caught:
        sriov(host)._run_set_count(B60, 2)
    assert caught.value.gpu == B60.address and caught.value.todo
    assert "Could not create 2 virtual functions" in str(caught.value)


@given(st.data())
def test_a_layout_asks_for_itself(tmp_path_factory, data):
    """Whatever the settings were: what is there then is what settings_of asks for, and planning it is planning nothing."""
    from gpuslice.sim.host import SimulatedHost
    from tests.conftest import described

    place = tmp_path_factory.mktemp("round")
    layout = data.draw(st.sampled_from(["sriov_admin", "debugfs", "debugfs-old"]))
    gpu = {"vendor": "intel", "device": "e211", "address": "0000:03:00.0", "sriov_totalvfs": 4, "sriov_files": layout}
    host = SimulatedHost(str(described(place, "arc-pro-b60", {"gpus": [gpu]})), str(place / "state"))
    engine, tool, one = opened(host)
    count = data.draw(st.integers(0, 4))
    turns = st.fixed_dictionaries(
        {}, optional={"exec_quantum_ms": st.integers(0, 50), "preempt_timeout_us": st.integers(0, 9000)}
    )
    sizes = st.fixed_dictionaries({}, optional={"vram_mib": st.integers(100, 4000), "exec_quantum_ms": st.integers(0, 50)})
    settings = {
        "vf_count": count,
        "profile": data.draw(st.sampled_from(["auto", "fair", "BurstableQoS"])),
        "autoprobe": data.draw(st.booleans()),
        "scheduling": data.draw(turns),
        "vfs": {str(number): data.draw(sizes) for number in range(1, count + 1)},
    }
    plan = plan_one(tool, one, tool.observe(one), settings)
    for step in plan.steps:
        tool.run(one, step)
    state = tool.observe(one)
    assert plan_one(tool, one, state, settings, Rules(force=True)).steps == ()
    assert plan_one(tool, one, state, tool.settings_of(tool.layout(state))).steps == ()
    engine.tools.release()
