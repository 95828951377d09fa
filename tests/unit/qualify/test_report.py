"""What a report of a tried GPU says, and what it never says."""

import os
import re

from hypothesis import given
from hypothesis import strategies as st

from gpuslice.qualify import report

ADDRESS, STATE_DIR = "0000:1b:00.0", "/var/lib/gpu-slicing"
ADDRESSES = st.from_regex(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", fullmatch=True, alphabet=st.characters(codec="ascii"))
PLAIN = st.text(st.sampled_from("abz .,'(:"), max_size=8)
NOTHING = {"seconds": 0.0, "back_seconds": 0.0, "differences": []}
FOUND = {
    "technology": "mig", "before": "MIG disabled", "why_not": "", "ended": "", "put_back": "",
    "facts": [{"what": "1g.10gb: at most", "catalog": 7, "found": 7}, {"what": "2g.20gb: id", "catalog": 14, "found": 15}],
    "trials": [
        {"what": "1g.10gb at 0", "result": "ok", "why": "", "seconds": 1.25, "back_seconds": 0.5, "differences": []},
        {"what": "2g.20gb at 2", "result": "failed", "why": "", **NOTHING, "differences": ["it is odd"],
         "missing_nodes": [f"/dev/x{number}" for number in (1, 2, 2, 3, 4)]},
        {"what": "MIG mode off", "result": "not tried", "why": "no time", **NOTHING},
    ],
    "killed": {"what": "2 x 1g.10gb", "at": "create it", "result": "ok", "why": "", "seconds": 2.0},
    "stopped": {"what": "2 x 1g.10gb", "at": "", "result": "not tried", "why": "no time", "seconds": 0.0},
}  # fmt: skip
GPU = {"model": "NVIDIA H100", "device_id": "2330", "subsystem_id": "10de:16c1", "driver": "nvidia"}
WHOLE = {
    "gpu": {**GPU, "driver_version": "580.95.05"}, "simulated": False, "kernel": "6.8.0", "engine": "0.1.0",
    "date": "2026-01-01", "seconds": 12.0,
    "technologies": [FOUND, {**FOUND, "technology": "sriov", "why_not": "for a reason"}],
}  # fmt: skip


@given(PLAIN, st.uuids(), ADDRESSES, PLAIN, st.sampled_from(["GPU-", "MIG-", ""]), st.booleans())
def test_nothing_of_a_machine_is_left_in_what_is_told(before, uuid, address, after, kind, nested):
    somebody = f"{os.uname().nodename} pid 17 (secret-job, unit x.service)"
    text = f"{before} {kind}{uuid} {after} {address} of {somebody} {STATE_DIR}/x {ADDRESS}"
    data = {"a": [text]} if nested else text
    told = report.as_json(report.anonymous(data, ADDRESS, STATE_DIR))
    for word in (str(uuid), address, ADDRESS, STATE_DIR, "secret-job", f"of {os.uname().nodename} "):
        assert word not in told


def test_what_is_no_name_of_a_machine_stays():
    kept = "NVIDIA H100, device 2330, subsystem 10de:16c1: create GPU instance 1g.10gb+me at 0 (now NPS1), 580.95.05"
    assert report.anonymous({"x": [kept, 7, None]}, ADDRESS, STATE_DIR) == {"x": [kept, 7, None]}


def test_the_text_tells_what_was_tried_and_what_differs():
    assert report.as_text(WHOLE).splitlines() == [
        "NVIDIA H100, device 2330, subsystem 10de:16c1",
        "driver nvidia 580.95.05, Linux 6.8.0, engine 0.1.0, 2026-01-01",
        "",
        "MIG: 1 ok, 1 failed, 1 not tried",
        "  before: MIG disabled",
        "  catalog: 2 facts compared, 1 differ",
        "    2g.20gb: id: the catalog has 14, the driver 15",
        "  1g.10gb at 0: ok; made in 1.25 s, taken away in 0.50 s",
        "  2g.20gb at 2: failed",
        "    it is odd",
        "  MIG mode off: not tried: no time",
        "  device nodes that nobody had made: /dev/x1, /dev/x2, /dev/x3 and 1 more",
        "  stopped half way (SIGTERM): not tried: no time",
        "  killed half way (SIGKILL): ok, undone; before 'create it' of '2 x 1g.10gb', over after 2.00 s",
        "  put back: yes, read again and as before",
        "",
        "SR-IOV: not tried: for a reason",
        "",
        "12.0 s in all",
    ]


def test_the_report_is_one_that_json_can_hold():
    assert re.match(r'\{\n "gpu"', report.as_json(WHOLE))
