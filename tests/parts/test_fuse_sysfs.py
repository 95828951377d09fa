"""
The kernel's own rules of ``sriov_numvfs``, in real files: a FUSE file system is mounted over /sys/bus/pci and /sys/devices in a
mount namespace of its own, and the engine works on it through its RealHost, with real open, write and readlink.

This very file is all three: the test, the file system (``serve``), and what the engine does inside (``inside``).
"""

import ctypes.util
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.support import needs
from tests.support import pillars

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PF = "0000:3c:00.0"
TOTAL = 7
#: Name of the driver that has the GPU and no files of its own for its functions.
DRIVER = os.environ.get("FAKE_DRIVER", "xe")
BASE = f"/devices/pci0000:3a/{PF}"
NUMVFS = f"/sys/bus/pci/devices/{PF}/sriov_numvfs"


def missing():
    """Why the file system can't be mounted here, naming what is missing; "" when it can."""
    if not (ctypes.util.find_library("fuse3") or ctypes.util.find_library("fuse")):
        return needs.said({"libfuse3-3": "libfuse"})
    if not os.path.exists("/dev/fuse") or not os.path.isdir("/sys/bus/pci"):
        return "/dev/fuse or /sys/bus/pci is missing"
    if why := needs.lacking("unshare"):
        return why
    if os.geteuid() or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode:
        return "a mount namespace of its own is not allowed here"
    return ""


# -- the file system -----------------------------------------------------------------------------------------------------
def tree(numvfs):
    """path -> text of a file, relative target of a link in a tuple, None for a directory: one PF and its VFs."""
    found = {}

    def function(address, device, extra):
        place = f"/devices/pci0000:3a/{address}"
        uevent = f"DRIVER={DRIVER}\nPCI_CLASS=38000\nPCI_ID=8086:{device.upper()}\nPCI_SLOT_NAME={address}\n"
        texts = {
            "vendor": "0x8086", "device": f"0x{device}", "class": "0x038000", "revision": "0x08", "numa_node": "0",
            "subsystem_vendor": "0x8086", "subsystem_device": "0x4905", "driver_override": "(null)", "uevent": uevent,
        }  # fmt: skip
        for name, text in {**texts, **extra}.items():
            found[f"{place}/{name}"] = text if isinstance(text, tuple) or text.endswith("\n") else text + "\n"
        found[f"{place}/driver"] = (f"../../../bus/pci/drivers/{DRIVER}",)
        found[f"{place}/subsystem"] = ("../../../bus/pci",)
        found[f"/bus/pci/devices/{address}"] = (f"../../../devices/pci0000:3a/{address}",)
        found[f"/bus/pci/drivers/{DRIVER}/{address}"] = (f"../../../../devices/pci0000:3a/{address}",)

    files = {"sriov_totalvfs": f"{TOTAL}", "sriov_numvfs": f"{numvfs}", "sriov_drivers_autoprobe": "1", "sriov_offset": "1",
             "sriov_stride": "1", "sriov_vf_device": "56c0", "sriov_vf_total_msix": "0"}  # fmt: skip
    names = [f"0000:3c:00.{number + 1}" for number in range(numvfs)]
    function(PF, "56c0", {**files, **{f"virtfn{number}": (f"../{name}",) for number, name in enumerate(names)}})
    for name in names:
        function(name, "56c0", {"physfn": (f"../{PF}",)})
    for path in list(found):
        while (path := path.rpartition("/")[0]) and path not in found:
            found[path] = None
    return {"/": None, **found}


def serve(mountpoint, orders):
    """
    Mount the file system and stay. ``orders`` is a JSON file: number of the write, counted after the first ``from`` ones -> an
    errno's name, ``kill before`` or ``kill after``, which ends the writer and the process ``engine`` that it writes for; each
    write is noted in ``<orders>.log``.
    """
    import mfusepy

    class Kernel(mfusepy.Operations):
        """Answers as the PCI core of Linux does."""

        use_ns = True

        def __init__(self):
            self.numvfs, self.autoprobe, self.writes = 0, 1, 0

        @property
        def files(self):
            return {**tree(self.numvfs), f"{BASE}/sriov_drivers_autoprobe": f"{self.autoprobe}\n"}

        def _at(self, path):
            files = self.files
            if path not in files:
                raise mfusepy.FuseOSError(errno.ENOENT)
            return files[path]

        def getattr(self, path, fh=None):
            found = self._at(path)
            mode = 0o040755 if found is None else 0o120777 if isinstance(found, tuple) else 0o100644
            return {"st_mode": mode, "st_nlink": 1, "st_size": 4096 if isinstance(found, str) else 0}

        def readdir(self, path, fh):
            head = path.rstrip("/") + "/"
            below = {name[len(head) :].partition("/")[0] for name in self.files if name.startswith(head)}
            return [".", "..", *sorted(below - {""})]

        def readlink(self, path):
            return self._at(path)[0]

        def read(self, path, size, offset, fh):
            return self._at(path).encode()[offset : offset + size]

        def truncate(self, path, length, fh=None):
            return 0

        def write(self, path, data, offset, fh):
            self.writes += 1
            told = json.loads(pathlib.Path(orders).read_text(encoding="utf-8"))
            order = told.get(str(self.writes - told.get("from", 0)), "")
            with open(f"{orders}.log", "a", encoding="utf-8") as log:
                log.write(f"{self.writes} {path.rpartition('/')[2]} {data.decode().strip()}\n")
            ends = dict.fromkeys((told.get("engine"), mfusepy.fuse_get_context()[2])) if order.startswith("kill") else ()
            if order == "kill before":
                for pid in ends:
                    os.kill(pid, signal.SIGKILL)
                raise mfusepy.FuseOSError(errno.EINTR)
            if order and not order.startswith("kill"):
                raise mfusepy.FuseOSError(getattr(errno, order))
            self._take(path, data.decode().strip())
            for pid in ends:
                os.kill(pid, signal.SIGKILL)
            return len(data)

        def _take(self, path, text):
            name = path.rpartition("/")[2]
            if not text.isdigit():
                raise mfusepy.FuseOSError(errno.EINVAL)
            wanted = int(text)
            if name == "sriov_drivers_autoprobe":
                self.autoprobe = wanted
                return
            if name != "sriov_numvfs":
                raise mfusepy.FuseOSError(errno.EACCES)
            if wanted > TOTAL:
                raise mfusepy.FuseOSError(errno.ERANGE)
            if wanted == self.numvfs:
                return
            if wanted and self.numvfs:
                raise mfusepy.FuseOSError(errno.EBUSY)
            self.numvfs = wanted

    # A change must be seen at once, as in sysfs: no page cache, no remembered names.
    mfusepy.FUSE(Kernel(), mountpoint, foreground=True, nothreads=True, direct_io=True, attr_timeout=0, entry_timeout=0)


SCRIPT = r"""
set -eu
place=$1 python=$2 file=$3; shift 3
mkdir "$place/mount"
"$python" "$file" serve "$place/mount" "$place/orders.json" >"$place/served.txt" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 100); do test -d "$place/mount/bus" && break; sleep 0.05; done
mount --bind "$place/mount/bus/pci" /sys/bus/pci
mount --bind "$place/mount/devices" /sys/devices
"$python" "$file" inside "$place" "$@"
"""


# -- inside --------------------------------------------------------------------------------------------------------------


class Inside:
    """The engine on the file system: what each case of the test runs. ``answers`` go back to the test as JSON."""

    def __init__(self, place):
        self.place = pathlib.Path(place)
        self.config = {"state_dir": str(self.place / "state")}
        self.orders({})

    def orders(self, told):
        """Orders for the writes from now on: the first one is number 1."""
        log = self.place / "orders.json.log"
        done = len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0
        (self.place / "orders.json").write_text(json.dumps({**told, "from": done}), encoding="utf-8")

    def ended_with_a_writer(self):
        """An order that ends a writer ends this process as well: it is the one that the writer works for."""
        told = json.loads((self.place / "orders.json").read_text(encoding="utf-8"))
        (self.place / "orders.json").write_text(json.dumps({**told, "engine": os.getpid()}), encoding="utf-8")

    def vfs(self):
        """(sriov_numvfs, addresses of the VFs) as the files say."""
        base = pathlib.Path(NUMVFS).parent
        links = sorted(base.glob("virtfn*"))
        return [int(pathlib.Path(NUMVFS).read_text()), [os.path.basename(os.readlink(link)) for link in links]]

    def apply(self, count):
        from gpuslice.engine import Engine

        with Engine(self.config) as engine:
            result = engine.apply(pillars.for_all("sriov", {"vf_count": count, "profile": "fair", "autoprobe": True}))
        return {"ok": result.ok, "steps": len(result.plan.steps), "errors": result.errors, "warnings": result.warnings,
                "changed": bool(result.changes), "vfs": self.vfs()}  # fmt: skip

    def in_child(self, count):
        """Apply in a process that an order may kill; returns the signal that ended it."""
        child = os.fork()
        if child == 0:
            try:
                self.ended_with_a_writer()
                self.apply(count)
            finally:
                os._exit(0)
        return os.waitpid(child, 0)[1] & 0x7F

    def rules(self):
        """errno's name of each write, by RealHost."""
        from gpuslice.host.real import RealHost

        host, found = RealHost(self.config["state_dir"]), []
        for text in ("x", "-1", str(TOTAL + 1), "3", "3", "5", "0", "5", "0"):
            try:
                host.write(NUMVFS, text)
                found.append([text, ""])
            except OSError as err:
                found.append([text, errno.errorcode[err.errno]])
        return found

    def life(self):
        """From none to 3, again, to 5, to none; then a reboot's loss and the replay of it."""
        from gpuslice.boot import replay
        from gpuslice.engine import Engine

        found = [self.apply(3), self.apply(3), self.apply(5)]
        pathlib.Path(NUMVFS).write_text("0")
        with Engine(self.config) as engine:
            replayed = replay.replay(engine, wait=0)
        return {"applied": found, "replayed": replayed, "after": self.vfs(), "last": self.apply(0)}

    def failing(self):
        """Each write of 3 -> 5 fails once with EIO; what is there afterwards, and after another try."""
        found = []
        for number in ("1", "2"):
            self.apply(3)
            self.orders({number: "EIO"})
            failed = self.apply(5)
            self.orders({})
            found.append([failed, self.apply(5)])
        return found

    def unanswered(self):
        """The driver has no answer for ``sriov_numvfs``, as the kernel's own i915: 0 -> 3, after a write of autoprobe."""
        autoprobe = pathlib.Path(NUMVFS).parent / "sriov_drivers_autoprobe"
        autoprobe.write_text("0")
        self.orders({"2": "ENOENT"})
        return {**self.apply(3), "autoprobe": autoprobe.read_text().strip()}

    def killed(self):
        """``kill -9`` before and after each write of 3 -> 5, then the same wish again, or the old one."""
        found = []
        for number in ("1", "2"):
            for when in ("kill before", "kill after"):
                for then in (5, 3):
                    self.apply(3)
                    self.orders({number: when})
                    ended = self.in_child(5)
                    self.orders({})
                    found.append([ended, then, self.apply(then), self.apply(then)["steps"]])
        return found


# -- the test ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def inside(tmp_path):
    """``inside("life")``: what that method of :class:`Inside` answers."""
    needs.require(missing())

    def run(case, driver="xe"):
        (tmp_path / "state").mkdir()
        (tmp_path / "orders.json").write_text("{}", encoding="utf-8")
        path = os.pathsep.join([str(ROOT), str(ROOT / "_utils"), *filter(None, [os.environ.get("PYTHONPATH")])])
        # libudev otherwise refuses files that are on no sysfs.
        environment = {**os.environ, "PYTHONPATH": path, "SYSTEMD_DEVICE_VERIFY_SYSFS": "0", "FAKE_DRIVER": driver}
        command = ["unshare", "-m", "--propagation", "private", "sh", "-c", SCRIPT, "fuse"]
        command += [str(tmp_path), sys.executable, __file__, case]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        served = (tmp_path / "served.txt").read_text(encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr + served
        return json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))

    return run


def names(count):
    return [count, [f"0000:3c:00.{number}" for number in range(1, count + 1)]]


def test_the_files_refuse_what_the_kernel_refuses(inside):
    assert inside("rules") == [
        ["x", "EINVAL"], ["-1", "EINVAL"], [str(TOTAL + 1), "ERANGE"], ["3", ""], ["3", ""], ["5", "EBUSY"], ["0", ""],
        ["5", ""], ["0", ""],
    ]  # fmt: skip


@pytest.mark.parametrize("driver", ["xe", "i915"])
def test_virtual_functions_come_change_go_and_come_back_after_a_boot(inside, driver):
    found = inside("life", driver)
    first, again, more = found["applied"]
    assert first["ok"] and first["changed"] and first["vfs"] == names(3), first
    assert again["ok"] and not again["steps"] and not again["changed"]
    # 3 -> 5 is EBUSY in one write: the plan goes through 0.
    assert more["ok"] and more["steps"] >= 2 and more["vfs"] == names(5)
    assert found["replayed"]["result"] is True and found["replayed"]["changes"], found["replayed"]
    assert found["after"] == names(5)
    assert found["last"]["ok"] and found["last"]["vfs"] == names(0)


def test_a_write_that_fails_puts_the_virtual_functions_back(inside):
    for failed, after in inside("failing"):
        assert not failed["ok"] and failed["vfs"] == names(3), failed
        assert PF in " ".join(failed["errors"]) and "undone" in " ".join(failed["errors"])
        assert after["ok"] and after["vfs"] == names(5)


def test_a_driver_without_an_answer_is_told_with_those_that_have_one(inside):
    found = inside("unanswered", "i915")
    told = " ".join(found["errors"])
    assert not found["ok"] and found["vfs"] == names(0) and found["autoprobe"] == "0"
    assert PF in told and "undone" in told and "xe.force_probe=56c0" in told and "backports" in told


def test_kill_before_and_after_each_write_is_mended_by_the_next_run(inside):
    for ended, then, after, left in inside("killed"):
        assert ended == signal.SIGKILL
        assert after["ok"] and after["vfs"] == names(then) and not left
        assert "interrupted" in " ".join(after["warnings"])


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3])
    else:
        case = Inside(sys.argv[2])
        answer = getattr(case, sys.argv[3])()
        (case.place / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
