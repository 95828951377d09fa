"""
A process whose command line is in no encoding.
"""

from gpuslice.host import holders
from tests.unit.host.test_holders import make_process


def test_bytes_that_are_no_text_hide_no_holder(tmp_path):
    base = make_process(tmp_path, 7, targets=["/dev/nvidia0"])
    (base / "cmdline").write_bytes(b"python\0caf\xe9.py\0")
    (base / "cgroup").write_bytes(b"0::/system.slice/caf\xe9.service\n")
    make_process(tmp_path, 8, targets=["/dev/nvidia1"])
    first, second = holders.scan_proc(str(tmp_path))
    assert (first.pid, first.nodes, second.pid) == (7, ("/dev/nvidia0",), 8)
    assert first.command.startswith("python caf") and first.command.endswith(".py")
