"""
The files of limits of GPU memory under a real systemd: a consumer runs in its slice and not without its limit, which is set again
with each start of that slice. What sets it is a program that writes down how it was called.
"""

import pytest

from gpuslice.outputs import memory_limit
from gpuslice.outputs.consumer import Consumer
from tests.parts import containers
from tests.support import needs

pytestmark = pytest.mark.slow

UNITS = "/etc/systemd/system"
BOOT = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
#: A name with what systemd takes for a step down.
ODD, PLAIN, REFUSED = Consumer("train-a", "service"), Consumer("train", "service"), Consumer("refused", "service")
SETTER = """
echo "$* $(cat /sys/fs/cgroup/gpuslicing.slice/gpuslicing-train*/cgroup.procs | wc -l)" >>/out/set.txt
case "$1" in *refused*) exit 1;; esac
"""
#: Stops the slice, which ends all in it, and starts the consumer anew.
STORY = """
cat /sys/fs/cgroup/gpuslicing.slice/*/cgroup.procs >/dev/null
systemctl is-active train-a.service gpuslicing-train\\\\x2da.service >/out/first.txt
systemctl stop 'gpuslicing-train\\x2da.slice'
systemctl is-active train-a.service 'gpuslicing-train\\x2da.service' >/out/stopped.txt
systemctl start train-a.service
systemctl is-active train-a.service 'gpuslicing-train\\x2da.service' train.service refused.service >/out/again.txt
systemctl restart train-a.service
true
"""


def files_of(consumer):
    unit = f"{consumer.name}.service"
    setter = memory_limit.setter(consumer, None, [("0000:41:00.0", 8192)], ("/bin/sh", "/probe/set.sh"), "/usr/lib/salt x")
    runs = f"[Service]\nExecStart=/bin/sh -c 'cat /proc/self/cgroup >/out/{consumer.name}.cgroup; exec sleep 600'\n"
    drop_in = memory_limit.drop_in(consumer, unit, None)
    return {f"{UNITS}/{unit}": runs, setter.path: setter.text, drop_in.path: drop_in.text}


@pytest.fixture(scope="module", params=[containers.OWN, containers.MADE_ROOT], ids=["own", "trixie"])
def out(request, tmp_path_factory):
    needs.require(containers.missing(request.param))
    files = {"/probe/set.sh": SETTER, "/probe/story.sh": STORY, f"{UNITS}/gpu-slicing.service": BOOT}
    for each in (ODD, PLAIN, REFUSED):
        files.update(files_of(each))
    started = [f"{each.name}.service" for each in (ODD, PLAIN, REFUSED)]
    story = f"[Unit]\nAfter={' '.join(started)}\n[Service]\nType=oneshot\nExecStart=/bin/sh /probe/story.sh\n"
    files[f"{UNITS}/story.service"] = story
    return containers.boot(tmp_path_factory.mktemp("boot"), request.param, files, [*started, "story.service"])


def read(out, name):
    return (out / name).read_text(encoding="utf-8").split("\n")


def test_each_runs_in_a_slice_of_its_own(out):
    assert "/gpuslicing.slice/gpuslicing-train\\x2da.slice/train-a.service" in "\n".join(read(out, "train-a.cgroup"))
    assert "/gpuslicing.slice/gpuslicing-train.slice/train.service" in "\n".join(read(out, "train.cgroup"))


def test_the_limit_is_set_before_anybody_runs_and_again_with_the_slice(out):
    calls = [line.rsplit(" ", 1)[0] for line in read(out, "set.txt") if "x2da" in line]
    # Not with the restart of the consumer alone.
    assert calls == ["gpuslicing-train\\x2da.slice 0000:41:00.0=8192"] * 2
    assert read(out, "stopped.txt")[:2] == ["inactive", "inactive"]
    assert read(out, "again.txt")[:3] == ["active", "active", "active"]


def test_nobody_runs_without_the_limit(out):
    assert not (out / "refused.cgroup").exists() and read(out, "again.txt")[3] != "active"
