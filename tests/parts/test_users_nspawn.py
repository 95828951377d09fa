"""
The managers of users under a real systemd, of this machine and of Debian 13: they obey the very commands of our driver, and those
that do not run are found out, also where they left their sockets.
"""

import pytest

from gpuslice.drivers import systemd
from gpuslice.host.base import of_user
from tests.parts import containers
from tests.support import needs

pytestmark = pytest.mark.slow

#: One who lingers, and one who is not there.
EVE, ZOE = 5123, 5124
LINES = {
    "passwd": "{name}:x:{uid}:{uid}::/:/bin/sh", "group": "{name}:x:{uid}:", "shadow": "{name}:*:20000:0:99999:7:::",
}  # fmt: skip
JOB = """
[Service]
ExecStartPre=/bin/sh -c 'id -u >>/out/starts.txt'
ExecStart=/bin/sleep 1000
"""
ORDER = f"""
[Unit]
After=systemd-logind.service systemd-user-sessions.service user@{EVE}.service
Wants=systemd-logind.service user@{EVE}.service
[Service]
Type=oneshot
ExecStart=/bin/sh /probe/order.sh
"""


def orders():
    """A shell script: what is said is on a line, with the exit status after it."""
    host, job, none = containers.Noting(), of_user("job.service", EVE), of_user("none.service", EVE)
    reload, active = host.of(systemd.reload_units, EVE), host.of(systemd.has_manager, EVE)
    lines = [
        f"said reload {reload}",
        f"said start {host.of(systemd.start, job)}",
        f"said restart {host.of(systemd.restart, job)}",
        f"said refresh {host.of(systemd.restart_if_active, job)}",
        f"said queue {host.of(systemd.restart, job, waits=False)}",
        "for i in $(seq 100); do [ $(wc -l </out/starts.txt) -ge 4 ] && break; sleep 0.1; done",
        f"said stop {host.of(systemd.stop, job)}",
        f"said refresh-ended {host.of(systemd.restart_if_active, job)}",
        f"said failing {host.of(systemd.restart, of_user('failing.service', EVE))}",
        f"said stop-none {host.of(systemd.stop, none)}",
        f"said restart-none {host.of(systemd.restart, none)}",
        f"said refresh-none {host.of(systemd.restart_if_active, none)}",
        f"said active {active}",
        f"said active-absent {host.of(systemd.has_manager, ZOE)}",
        f"said absent {host.of(systemd.reload_units, ZOE)}",
        "ls /run/user >/out/there.txt",
        f"systemctl stop user@{EVE}.service",
        f"said active-ended {active}",
        f"said ended {reload}",
    ]
    said = 'said() { name=$1; shift; came=$("$@" 2>&1); echo "$name $? $came" >>/out/said.txt; }'
    return "\n".join([said, *lines, ""])


def people(root):
    """The files in which users stand, with ours added."""
    found = {}
    for file, line in LINES.items():
        own = "".join(line.format(name=name, uid=uid) + "\n" for name, uid in (("eve", EVE), ("zoe", ZOE)))
        found[f"/etc/{file}"] = (root / "etc" / file).read_text(encoding="utf-8") + own
    return found


@pytest.fixture(scope="module", params=[containers.OWN, containers.MADE_ROOT], ids=["own", "trixie"])
def out(request, tmp_path_factory):
    """What came of the commands."""
    needs.require(containers.missing(request.param))
    files = {
        **people(request.param), "/var/lib/systemd/linger/eve": "",
        "/etc/systemd/user/job.service": JOB,
        "/etc/systemd/user/failing.service": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
        "/probe/order.sh": orders(), "/etc/systemd/system/order.service": ORDER,
    }  # fmt: skip
    return containers.boot(tmp_path_factory.mktemp("boot"), request.param, files, ["order.service"])


def said(out):
    """Name of a command -> (its exit status, its last line)."""
    rows = [line.split(" ", 2) for line in (out / "said.txt").read_text(encoding="utf-8").splitlines()]
    return {row[0]: (int(row[1]), row[2]) for row in rows if len(row) == 3 and row[1].isdigit()}


def test_a_manager_obeys_the_commands_of_our_driver(out):
    told = said(out)
    for name in ("reload", "start", "restart", "queue", "refresh", "stop", "refresh-ended"):
        assert told[name] == (0, ""), name
    # Each start but that of what was stopped, by his own manager.
    assert (out / "starts.txt").read_text(encoding="utf-8").split() == [str(EVE)] * 4


def test_what_does_not_start_is_told(out):
    code, words = said(out)["failing"]
    assert code == 1 and words.startswith("Job for failing.service failed because the control process exited")


def test_a_unit_that_is_not_there_is_told_from_one_that_fails(out):
    told = said(out)
    for name in ("stop-none", "restart-none", "refresh-none"):
        assert told[name][0] == systemd.NOT_LOADED, told


def test_a_manager_that_does_not_run_is_found_out_and_not_started(out):
    told = said(out)
    assert told["active"] == (0, "active")
    assert told["active-absent"][1] == told["active-ended"][1] == "inactive"
    # Our driver does not come so far: no socket, or no manager behind it.
    assert told["absent"][0] == told["ended"][0] == 1
    assert (out / "there.txt").read_text(encoding="utf-8").split() == [str(EVE)]
