"""
A100 that are sliced alike, and what the tests of a change that goes wrong make of them.
"""

FIRST, SECOND, THIRD = "0000:07:00.0", "0000:0f:00.0", "0000:47:00.0"
#: A change from BEFORE to AFTER keeps the 3g, ends the 2g and makes one more 1g.
BEFORE = ["3g.20gb@0", "2g.10gb@4", "1g.5gb@6"]
AFTER = ["3g.20gb", "1g.5gb", "1g.5gb"]
OLD, NEW = sorted(["3g.20gb", "2g.10gb", "1g.5gb"]), sorted(AFTER)
A100 = {"model": "a100-40gb", "mig": "enabled", "instances": BEFORE}
TRIO = [{**A100, "address": address} for address in (FIRST, SECOND, THIRD)]
#: Who uses the instance that the change ends.
HOLDER = {"pid": 4711, "command": "train.py", "unit": "trainer.service", "gpu": FIRST, "slice": "2g.10gb@4"}
CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
