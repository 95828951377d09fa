"""``docs/paths.md`` has every path that is written on a host, with its mode, and says truly whether it goes with a clean."""

import pathlib
import re

import pytest

from gpuslice import metrics
from gpuslice.engine import Engine
from gpuslice.metrics import unit
from gpuslice.policy.fields import TEXTFILE
from gpuslice.records import leaving
from tests.support import consumers
from tests.support import pages
from tests.support import pillars
from tests.support import quotas
from tests.support import telling
from tests.support.cleaned import cleaned
from tests.support.cleaned import found
from tests.support.cleaned import records
from tests.support.cleaned import with_boot
from tests.support.hosts import apply
from tests.support.hosts import config

ENABLED = "/etc/systemd/system/multi-user.target.wants/gpu-slicing.service"
#: Hosts and pillars that between them have every technology which writes files.
HOSTS = {
    "consumers": ("dgx-h100", "consumers"),
    "daemons": ("l40s-pair", "mps"),
    "turns": ("l4-pair", "time_slicing"),
    "options": ("mi210-gim", "mi210_gim"),
    "licence": ("vgpu-guest", "vgpu_guest"),
    "given away": ("mixed-vendors", "passthrough"),
    "environments": ("arc-pro-b60", "arc_pro_b60"),
    "caps": ("l40s-pair", "power"),
}
#: None of these writes any but the records.
MORE = {"partitions": ("mi300x-8", "mi300x"), "functions": ("flex170", "flex170"), "vgpus": ("vgpu-host-mdev", "vgpu_host")}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MORE]


def rows(heading):
    """[regular expression, mode, whether clean leaves it] of each path of a table."""
    found = []
    for line in pages.section("paths", heading).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `"):
            modes = re.findall(r"0[0-7]{3}", cells[1])
            paths = [path.removeprefix("<state>/") for path in re.findall(r"`([^`]+)`", cells[0])]
            found += [(_pattern(path), modes, cells[-1].startswith("leaves")) for path in paths]
    return found


def _pattern(path):
    return re.compile(re.sub(r"<[^>]+>", "[^/]+", re.escape(path)))


def row_of(path, known):
    return next((row for row in known if row[0].fullmatch(path)), None)


def untold(host):
    """What was written and is not on the page, or with another mode; the paths that clean is to leave are returned beside it."""
    state, known, wrong, left = host.state(), rows("Files"), [], []
    for path in (path for path in state["written"] if not path.startswith("/sys/")):
        row = row_of(path, known)
        mode = state.get("modes", {}).get(path)
        if row is None or (mode is not None and f"{mode:04o}" not in row[1]):
            wrong.append((path, mode))
        elif row[2]:
            left.append(path)
    return wrong + list(_untold_records(host)), left


def _is_found(host, path):
    """Whether a file is found as ours without any record: all but a technology's notes until the next boot, and a licence."""
    elsewhere = path.startswith(("/run/gpu-slicing/", "/run/reboot-required", "/etc/nvidia/"))
    return elsewhere or path in (ENABLED, unit.WANTED, TEXTFILE) or path in leaving.strays(host)


def _untold_records(host):
    known = rows("The state directory")
    for name in records(host):
        path = pathlib.Path(host.state_dir, name)
        row = row_of(name, known)
        if path.is_file() and (row is None or f"{path.stat().st_mode & 0o777:04o}" not in row[1]):
            yield name, oct(path.stat().st_mode)


def goes(host):
    """Everything that was written is told, and what is told to go goes."""
    wrong, left = untold(host)
    assert wrong == []
    strange = [path for path in host.state()["written"] if not path.startswith("/sys/") and not _is_found(host, path)]
    assert strange == []
    answer = cleaned(host, force=True)
    assert answer["result"], answer
    assert sorted(path for path in host.state()["written"] if not path.startswith("/sys/")) == sorted(left)
    assert records(host) == []


@pytest.mark.parametrize("name", [*HOSTS, *SLOW])
def test_every_file_that_is_written_is_told_and_goes_as_it_is_told(simulated, name):
    machine, pillar = {**HOSTS, **MORE}[name]
    host = simulated(machine)
    before = found(host)
    result = apply(host, pillars.example(pillar))
    assert result.ok, result.errors
    with_boot(host)
    goes(host)
    assert found(host) == before


def test_files_of_users_and_of_units_that_were_there_are_told_as_well(simulated):
    quadlet = "/etc/containers/systemd/api.container"
    files = {"/etc/passwd": consumers.PASSWD, quadlet: "[Container]\nImage=localhost/api:1\n"}
    host = consumers.machine(simulated, 1, files=files)
    wanted = {
        **consumers.EACH,
        "api": {"kind": "container", "unit": "api.container", "slice": "1g.10gb"},
        "hers": {"kind": "container", "image": "localhost/web:1", "user": "ada", "slice": "1g.10gb"},
    }
    result = apply(host, consumers.pillar(wanted))
    assert result.ok, result.errors
    assert any("/users/1000/" in path for path in host.state()["written"])
    goes(host)


def test_limits_of_memory_are_told_and_go(simulated):
    machine = quotas.INTEL
    host = simulated(machine.example, **machine.changes)
    assert apply(host, quotas.limited(machine)).ok and quotas.limit_now(host, machine)
    goes(host)
    assert quotas.limit_now(host, machine) is None


def test_what_schedulers_are_told_is_told_and_goes(simulated):
    host = telling.machine(simulated)
    before = found(host)
    alone = {"unit": "", "drain": False}
    assert telling.converge(host, telling.pillar({telling.FIRST: ["1g.10gb"]}, kubernetes=True, nomad=alone)).ok
    assert {"slurm.json", "kubernetes.json", "nomad.json"} <= set(records(host)) and untold(host) == ([], [])
    assert cleaned(host)["result"] and found(host) == before and records(host) == []


def test_metrics_and_what_writes_them_are_told_and_go(simulated):
    host = simulated("dgx-h100", processes=[])
    assert apply(host, pillars.mig(["1g.10gb"])).ok
    with Engine(config(host)) as engine:
        assert metrics.enable(engine, config(host), {})["result"]
    assert TEXTFILE in host.state()["written"] and "metrics.json" in records(host)
    goes(host)


def test_the_marks_of_a_reboot_are_told_and_stay(simulated):
    gpu = {"model": "a100-40gb", "address": "0000:07:00.0", "reset": "never"}
    host = simulated("dgx-a100-40gb", gpus=[gpu])
    assert apply(host, pillars.mig(["1g.5gb"])).reboot
    wrong, left = untold(host)
    assert wrong == [] and left == ["/run/reboot-required", "/run/reboot-required.pkgs"]
    cleaned(host, force=True)
    assert host.exists("/run/reboot-required")


def test_a_token_before_the_last_is_a_secret_that_goes(simulated):
    host = simulated("vgpu-guest")
    for token in ("first.token", "second.token"):
        assert apply(host, pillars.vgpu(client_token=token)).ok
    assert any(path.endswith(".previous") for path in host.state()["written"])
    goes(host)
    assert not any("token" in text for text in host.state()["written"].values())


def test_the_page_names_every_file_of_the_state_directory():
    text = pages.section("operations", "Files")
    names = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and not line.startswith("| `/")]
    page = pages.page("paths")
    assert [name for name in names if f"`<state>/{name.replace('NNNNNN', '<number>')}" not in page] == []


def test_the_page_leaves_no_record_that_goes(simulated):
    host = simulated("a30-pair")
    reports = pathlib.Path(host.state_dir, "qualify")
    reports.mkdir(parents=True)
    for name in ("a30-20260101-000000.json", "a30-20260101-000000.txt", "lock"):
        (reports / name).write_text("")
    known = rows("The state directory")
    assert len(leaving.files(host)) == 3
    assert [name for name in leaving.files(host) if row_of(name, known)[2]] == []
