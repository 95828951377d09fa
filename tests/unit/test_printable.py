"""What users, programs and firmware chose is printed without anything that moves the cursor or looks like a line of ours."""

import pytest

from gpuslice import errors
from gpuslice import job
from gpuslice.drivers import kernel
from gpuslice.engine import Engine
from gpuslice.host import holders
from gpuslice.host.base import Completed
from gpuslice.host.real import RealHost
from gpuslice.inventory import discovery
from gpuslice.printable import printable
from gpuslice.printable import printable_lines
from gpuslice.sim.host import SimulatedHost
from tests.support.hosts import config
from tests.unit.host.test_holders import make_process

#: Clears the screen, rings, returns to the begin of the line, forges one, and turns the direction of writing.
EVIL = "a\x1b[2J\x07\rb\nEverything has been undone.\x9b1m\u202ec\udc80\x00\x7f"
TAME = "a\\x1b[2J\\x07 b Everything has been undone.\\x9b1m\\u202ec\\udc80\\x00\\x7f"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB"),
        ("naïve 日本語 Ω", "naïve 日本語 Ω"),
        (EVIL, TAME),
        ("a\u00a0b\u2028c\u2029d\x85e\tf\x0bg", "a b c d e f g"),
        ("\ufeff\u200b\u2066x\u2069", "\\ufeff\\u200b\\u2066x\\u2069"),
        ("a\\x1b", "a\\x1b"),
    ],
)
def test_one_line(text, line):
    assert printable(text) == line and printable(line) == line and line.isprintable()


def test_several_lines_keep_their_breaks_and_nothing_else():
    assert printable_lines("one\n\ttwo\n") == "one\n\ttwo\n"
    assert printable_lines(EVIL) == TAME.replace("b Every", "b\nEvery")
    assert printable_lines("ü\r\nx") == "ü \nx"


def is_tame(value):
    """Whether nothing in plain data has a character that is not for printing."""
    if isinstance(value, dict):
        return all(is_tame(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(is_tame, value))
    return not isinstance(value, str) or all(line.isprintable() for line in value.replace("\t", " ").split("\n"))


# -- the doors -----------------------------------------------------------------------------------------------------------
def test_processes(tmp_path):
    cgroup = "0::/system.slice/x\x1b[31m.service/lxc.payload.\x07w\n"
    make_process(
        tmp_path,
        9,
        "sh\0-c\0" + EVIL.replace("\x00", "").replace("\udc80", "") + "\0",
        cgroup,
        ["/dev/nvidia0", "/dev/dri/\x1bcard1"],
    )
    make_process(tmp_path, 10, "", "0::/\n", ["/dev/nvidia0"], comm="\x1b]0;title\x07")
    found = holders.scan_proc(str(tmp_path))
    assert all(is_tame(list(one)) and "\n" not in str(one) for one in found)
    assert found[0].unit == "x\\x1b[31m.service" and found[0].container == "\\x07w" and "\\x1b[2J" in found[0].command
    assert found[1].command == "[\\x1b]0;title\\x07]"
    assert is_tame(list(holders.process(9, str(tmp_path))))


def test_output_of_programs():
    done = Completed(1, f"out {EVIL}\n", EVIL)
    assert is_tame([done.stdout, done.stderr]) and done.stdout.count("\n") == 2
    real = RealHost().run(["printf", r"\033[31mred\033[0m\nnext"])
    assert real.stdout == "\\x1b[31mred\\x1b[0m\nnext"


class Firmware(SimulatedHost):
    """A simulated machine whose firmware and drivers tell what they should not."""

    def read(self, path):
        told = super().read(path)
        if path.endswith("/product_name"):
            return EVIL
        return told.replace("Model: \t\t ", f"Model: \t\t {EVIL.replace(chr(10), '')}") if path.endswith("/information") else told


def test_names_of_boards(simulated):
    host = simulated("dgx-a100-40gb")
    gpus = discovery.discover(Firmware(host.description_path, host.state_dir))
    assert gpus and all(is_tame([gpu.model, gpu.name]) for gpu in gpus)
    assert any("\\x1b" in gpu.model + gpu.name for gpu in gpus)


def test_files_of_the_kernel(simulated):
    host = simulated("mi300x-8")
    machine = Firmware(host.description_path, host.state_dir)
    with machine.change() as state:
        state["written"]["/sys/class/firmware"] = EVIL
    assert is_tame(kernel.text(machine, "/sys/class/firmware"))


def test_every_message_whatever_is_in_it():
    err = errors.ResourceConflict(f"In use by {EVIL}.", "0000:07:00.0", f"Stop {EVIL}.")
    assert is_tame([str(err), err.what, err.todo]) and str(errors.GpuSliceError("one\ntwo")) == "one\ntwo"


def test_who_asked(tmp_path):
    import msgpack

    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "1").write_bytes(msgpack.packb({"pid": 5, "jid": "1", "fun": "state.apply", "user": "sudo_\x1b[2J"}))
    assert job.of_process(str(tmp_path), 5)["user"] == "sudo_\\x1b[2J"


# -- as a user has it ----------------------------------------------------------------------------------------------------
def test_a_command_line_does_not_forge_a_line_of_ours(simulated):
    gpus = [{"model": "a100-40gb", "address": "0000:07:00.0", "mig": "enabled", "instances": ["2g.10gb@4"]}]
    evil = EVIL.replace("\udc80", "")
    holder = {
        "pid": 5,
        "command": evil,
        "unit": "u\x1b.service",
        "container": "c\x07",
        "gpu": "0000:07:00.0",
        "slice": "2g.10gb@4",
    }
    host = simulated("dgx-a100-40gb", gpus=gpus, processes=[holder])
    lines = []
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["7g.40gb"]}}}
    with Engine(config(host), progress=lines.append) as engine:
        told = [engine.holders("0000:07:00.0"), engine.slices(), engine.plan(wanted).text(), list(engine.plan(wanted).blocked)]
        forced = {**wanted, "containers_gpu_state_management": {"apply_strategy": "force"}}
        told.append(engine.plan(forced).as_dict())
        result = engine.apply(forced)
    assert result.ok, result.errors
    assert "\\x1b[2J" in str(told) and is_tame(told) and is_tame(lines) and is_tame(engine.history())
    assert not any(line.startswith("Everything") for line in str(told[2]).splitlines())
