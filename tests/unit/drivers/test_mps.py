"""The control daemon of MPS: its limits, what is told of them, and every answer that is none."""

import pytest

from gpuslice import errors
from gpuslice.drivers import mps
from gpuslice.host.base import Completed
from gpuslice.model import Process
from gpuslice.outputs.mps import pipe_directory
from gpuslice.sim.host import SimulatedHost

ONE = "0000:41:00.0"


class Answering(SimulatedHost):
    """A host whose daemon answers what a test says, and that notes what is asked where."""

    answers, asked = {}, ()

    def run(self, argv, timeout=60, given="", environment=None):
        self.asked = (*self.asked, (tuple(argv), given, environment))
        answer = self.answers[given.strip()]
        return answer if isinstance(answer, Completed) else Completed(0, answer)


@pytest.fixture
def asked(simulated):
    """``asked({command: answer})``: (host, control)."""

    def make(answers):
        plain = simulated("l40s-pair")
        host = Answering(plain.description_path, plain.state_dir)
        host.answers = answers
        return host, mps.Control(host, ONE, ONE)

    return make


@pytest.mark.parametrize(
    ("version", "most"), [("470.82.01", 48), ("580.95.05", 48), ("590.44.01", 60), ("615.10", 60), ("", 48), ("old", 48)]
)
def test_the_driver_tells_how_many_clients_there_can_be(simulated, version, most):
    host = simulated("l40s-pair")
    assert mps.most_clients(host) == 60
    with host.change() as state:
        state["written"]["/sys/module/nvidia/version"] = version
    assert mps.most_clients(host) == most


@pytest.mark.parametrize(
    ("mib", "told"), [(None, ""), (1, "1M"), (1023, "1023M"), (1024, "1G"), (10239, "9G"), (1048576, "1024G")]
)
def test_a_limit_is_told_as_the_daemon_tells_it(mib, told):
    assert mps.told_pinned(mib) == told


def test_the_daemon_of_a_slice_is_asked_in_its_folder(asked):
    host, control = asked({mps.GET_THREADS: "12.5\n", mps.GET_PINNED: "3G\n"})
    assert control.limits() == ("12.5", "3G")
    control.check(12.5, 3072)
    environment = {"CUDA_MPS_PIPE_DIRECTORY": pipe_directory(ONE)}
    assert host.asked[0] == (("nvidia-cuda-mps-control",), f"{mps.GET_THREADS}\n", environment)


def test_another_limit_than_the_one_that_was_set_is_refused_with_both(asked):
    _, control = asked({mps.GET_THREADS: "100.0\n", mps.GET_PINNED: ""})
    with pytest.raises(errors.ValidationFailed) as caught:
        control.check(12.5, 3072)
    assert str(caught.value) == (
        f"GPU {ONE}: The MPS daemon of {ONE} was to give each client 12.5 % of the multiprocessors and 3G of memory, and it "
        "gives 100.0 % of the multiprocessors and any amount of memory: it refused a value. See its log ('journalctl -u' of its "
        "unit), and correct its weights, active_thread_percentage or pinned_memory_mib."
    )


def test_clients_of_all_servers_are_told_and_words_among_them_left_out(asked):
    answers = {"get_server_list": "100\n200\n", "get_client_list 100": "7\n9\n", "get_client_list 200": "Server 200 not found\n"}
    assert asked(answers)[1].clients() == [7, 9]
    assert asked({"get_server_list": ""})[1].clients() == []


@pytest.mark.parametrize("said", ["Cannot find MPS control daemon process\n", ""])
def test_a_daemon_that_is_not_there_is_a_sentence(asked, said):
    _, control = asked({mps.GET_THREADS: Completed(1, said)})
    with pytest.raises(errors.ToolFailed, match=f"does not answer: {said.strip() or 'nothing was said'}. See 'systemctl status'"):
        control.limits()


@pytest.mark.parametrize(
    ("command", "serves"),
    [("/usr/bin/nvidia-cuda-mps-control -f", True), ("nvidia-cuda-mps", True), ("/usr/sbin/nvidia-cuda-mps-server", True),
     ("vi nvidia-cuda-mps-control", False), ("train.py", False), ("", False)],
)  # fmt: skip
def test_a_process_of_mps_is_known_by_its_program(command, serves):
    assert mps.serves(Process(1, command)) is serves


@pytest.mark.parametrize(("text", "pid"), [("4711\n", 4711), ("", None), ("x", None), ("-1", None)])
def test_the_number_in_the_folder_is_believed_where_it_is_one(simulated, text, pid):
    host = simulated("l40s-pair", files={"/run/x/nvidia-cuda-mps-control.pid": text or "\n"})
    assert mps.daemon_pid(host, "/run/x") == pid and mps.daemon_pid(host, "/run/y") is None
