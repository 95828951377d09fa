"""Clients of DRM devices, out of a proc file system."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.host import clients
from gpuslice.host.real import RealHost

PDEV = "0000:03:00.0"
XE = f"""pos:\t0
mnt_id:\t26
drm-driver:\txe
drm-client-id:\t3
drm-pdev:\t{PDEV}
drm-resident-vram0:\t23992 KiB
drm-resident-system:\t0
drm-total-vram0:\t24 MiB
drm-cycles-ccs:\t28257900
drm-total-cycles-ccs:\t7655183225
drm-engine-capacity-ccs:\t4
drm-engine-render:\t9288864723 ns
"""


def test_what_a_driver_tells_in_its_units():
    client = clients.parse(XE, 77)
    assert client[:3] == (PDEV, 3, (77,))
    assert client.numbers == {
        "resident-vram0": 23992 * 1024, "resident-system": 0, "total-vram0": 24 * 2**20, "cycles-ccs": 28257900,
        "total-cycles-ccs": 7655183225, "engine-capacity-ccs": 4, "engine-render": 9288864723,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "pos: 0\nmnt_id: 26\n", "drm-driver: xe\n", f"drm-pdev: {PDEV}\n", "drm-client-id: 3\n",
        f"drm-pdev: {PDEV}\ndrm-client-id: three\n", "drm-pdev: ../../etc\ndrm-client-id: 3\n",
        f"drm-pdev: {PDEV}\ndrm-client-id: -3\n",
    ],
)  # fmt: skip
def test_what_is_of_no_client(text):
    assert clients.parse(text, 1) is None


def test_words_instead_of_numbers_are_left_out():
    text = f"drm-pdev: {PDEV}\ndrm-client-id: 3\ndrm-a: many\ndrm-b: 5 miles\ndrm-c: -5\ndrm-d: {'9' * 5000}\ndrm-e: 5\n"
    assert clients.parse(text, 1).numbers == {"e": 5}


@given(st.text(max_size=300) | st.lists(st.sampled_from(XE.splitlines()), max_size=20).map("\n".join))
def test_texts_of_anything_are_a_client_or_none(text):
    found = clients.parse(text, 1)
    assert found is None or all(number >= 0 for number in found.numbers.values())


def process(root, pid, *files):
    """A process with open files: (descriptor, what it is of, fdinfo)."""
    for name in ("fd", "fdinfo"):
        (root / str(pid) / name).mkdir(parents=True)
    for number, target, text in files:
        (root / str(pid) / "fd" / str(number)).symlink_to(target)
        (root / str(pid) / "fdinfo" / str(number)).write_text(text)


def test_files_of_one_client_count_once_and_the_larger_number_is_kept(tmp_path):
    later = XE.replace("28257900", "28257999").replace("23992 KiB", "20000 KiB")
    process(tmp_path, 10, (5, "/dev/dri/renderD128", XE), (6, "/dev/dri/renderD128", later), (7, "/tmp/x", XE))
    process(tmp_path, 11, (3, "/dev/dri/renderD128", XE))
    process(tmp_path, 12, (3, "/dev/dri/card0", XE.replace("client-id:\t3", "client-id:\t4")))
    (tmp_path / "self").symlink_to("10")
    found = clients.scan({"renderD128": PDEV, "card0": PDEV}, str(tmp_path))
    assert [(client.id, client.pids) for client in found] == [(3, (10, 11)), (4, (12,))]
    assert found[0].numbers["cycles-ccs"] == 28257999 and found[0].numbers["resident-vram0"] == 23992 * 1024


def test_only_files_of_the_functions_asked_for_are_read(tmp_path):
    """Reading one of another would wake its card."""
    process(tmp_path, 10, (5, "/dev/dri/renderD129", XE))
    os.remove(tmp_path / "10" / "fdinfo" / "5")
    os.mkfifo(tmp_path / "10" / "fdinfo" / "5")
    assert clients.scan({"renderD128": PDEV}, str(tmp_path)) == []


def test_a_node_that_turns_out_to_be_of_another_function_is_left_out(tmp_path):
    process(tmp_path, 10, (5, "/dev/dri/renderD128", XE.replace(PDEV, "0000:04:00.0")))
    assert clients.scan({"renderD128": PDEV}, str(tmp_path)) == []


def test_a_process_that_ends_meanwhile_is_none(tmp_path):
    (tmp_path / "10").mkdir()
    process(tmp_path, 11, (5, "/dev/dri/renderD128", XE))
    os.remove(tmp_path / "11" / "fdinfo" / "5")
    assert clients.scan({"renderD128": PDEV}, str(tmp_path)) == []


def test_processes_that_cannot_be_seen_are_an_error():
    """What others use would be missing in the sum."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            clients.scan({"renderD128": PDEV})
    finally:
        if root:
            os.seteuid(0)


def test_this_machine_is_read_without_asking_any_card():
    assert RealHost().gpu_clients(["ffff:ff:1f.7"]) == []


def test_bytes_of_a_file_as_they_are(tmp_path):
    path = tmp_path / "table"
    path.write_bytes(bytes(range(256)) * 5000)
    found = RealHost().read_bytes(str(path))
    assert found == path.read_bytes()[: 2**20]
    with pytest.raises(FileNotFoundError):
        RealHost().read_bytes(str(tmp_path / "none"))
