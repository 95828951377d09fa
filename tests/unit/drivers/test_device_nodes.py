"""Whether a path of the host can be used."""

from gpuslice.drivers import device_nodes


def test_a_path_that_can_be_used_has_nothing_wrong(simulated):
    host = simulated("dgx-h100", files={"/usr/lib/libcuda.so": ""})
    for path in ("/dev/nvidia0", "/dev/nvidiactl", "/usr/lib/libcuda.so", "/dev/nvidia-caps/nvidia-cap1"):
        assert device_nodes.wrong(host, path) == ""


def test_what_is_not_there_and_what_is_another_device_is_told(simulated):
    host = simulated("dgx-h100")
    assert device_nodes.wrong(host, "/dev/nvidia9") == device_nodes.wrong(host, "/usr/lib/libcuda.so") == "is not there"
    number = host.device_number
    host.device_number = lambda path: "1:3" if path == "/dev/nvidia1" else number(path)
    assert device_nodes.wrong(host, "/dev/nvidia1") == "is another device, 1:3 and not 195:1"
