"""
Values of every kind that YAML, JSON or a Python program can hand over, for tests that hand them over everywhere.
"""

import datetime

ENDLESS = ["x"]
ENDLESS.append(ENDLESS)
DEEP = {"x": "y"}
for _ in range(500):
    DEEP = {"x": [DEEP]}
POOL = [
    None, True, False, 0, 1, -1, 2, 7, 64, 65, 255, 4096, 2**31, 2**63, -(2**64), 10**400, 10**5000,
    0.0, 1.5, -0.1, 1e308, float("nan"), float("inf"), float("-inf"),
    "", " ", "\n", "0", "1", "-1", "1.5", "true", "false", "True", "None", "null", "all", "auto", "none", "²", "١", "1e3", "0x10",
    "--help", "-f", "../..", "/no/such/file", "; reboot", "$(reboot)", "{{ 1 }}", "%s%n", "*", "?", "[", "@", "@0", "1g@", "\\",
    "x" * 300, "x" * 100000, "1" * 5000, "\x00", "\x1b[2J\x07", "a\rb", "\u202eabc", "\ud800", "\udcff.gb", "ſ", "İ", "🂡",
    "0000:ff:00.0", "0000:07:00.0", "0000:07:1f.7", "ffff:ff:ff.7", "07:00.0", 420.0, 999999.9, "GPU-", "MIG-",
    "GPU-00000000-0000-0000-0000-000000000000", "MIG-00000000-0000-0000-0000-000000000000",
    "1g.5gb", "3g.20gb", "1c.3g.20gb", "9g.999gb", "1g.10gb+me", "1g.5gb@0", "1g.5gb@99", "0g.0gb", "99999999999g.5gb",
    "1c.1g.5gb-me",
    "CPX", "spx", "NPS4", "NPS", "NPS999", "FLAT", "H100XM-10C", "pillar", "mig-parted", "equal-share", "fair",
    b"", b"\xff", bytearray(b"x"), datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1, 12), datetime.timedelta(1), 1j,
    object, Ellipsis,
    [], [[]], [None], [True], [0], ["1g.5gb"], ["1g.5gb"] * 70, ["0000:07:00.0"], ["0", "0.1"], ["0", "0"], ["9" * 50], ["0.1\n"],
    [10**5000], [float("nan")], ["\ud800"], [b"x"], [{}], (), ("1g.5gb",), {1, 2}, frozenset(), range(3), ENDLESS, DEEP,
    list(range(30000)),
    {}, {"x": 1}, {"": ""}, {None: None}, {1: 2}, {True: False}, {1.5: None}, {(): ()}, {b"x": b"y"}, {10**5000: 1},
    {"\ud800": 1},
    {"1g.5gb": 1}, {"1g.5gb": 0}, {"1g.5gb": True}, {"1g.5gb": 10**5000}, {"1g.5gb": "1"}, {"1g.5gb@0": 1},
    {"1g.5gb": 1, "1G.5GB": 1},
    {"1": {"vram_mib": 1}}, {"²": {}}, {"1" * 5000: {}}, {1: {}, "1": {}}, {"1": {"vram_mib": float("nan")}},
    {"exec_quantum_ms": -1},
    {"ccs": {"timeslice_duration_us": 1}}, {"ccs": None}, {"ccs": {"x" * 300: 1}}, {"priority": "high"},
    {"containers_gpu_slicing": None}, {"containers_gpu_slicing": []},
    {"containers_gpu_slicing": {"enabled": True, "strategy": "mig"}},
    {"containers_gpu_slicing": {"enabled": True, "devices": [None, 7, {"match": {"pci": 10**400}},
    {"match": {"model": "\x1b"}}]}},
    {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["1g.5gb"],
    "gpu_instance_count": 10**5000}}},
    {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": {"9" * 5000 + "g.5gb": 1}}}},
    {"containers_gpu_slicing": {"enabled": True, "strategy": "mps"}}, {"gpu_slicing": {"enabled": True}},
    {"containers_gpu_slicing": DEEP},
    {"containers_gpu_discovery": {"method": "manual", "devices": [10**400, "", None, 0.5]}}, {b"containers_gpu_slicing": {}},
    {"containers_gpu_state_management": {"stop_units": ["--help", "a.service\n", "../x.service"], "unload_modules": ["-r"]}},
]  # fmt: skip
