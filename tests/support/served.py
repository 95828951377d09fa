"""
A server with two A30 whose consumers have slices, one of each kind, and on which nothing is missing for any of them.
"""

PEOPLE = {
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\njane:x:1000:1000::/home/jane:/bin/sh\n",
    "/etc/group": "root:x:0:\nvideo:x:44:\nrender:x:993:\njane:x:1000:\n",
}
#: A host on which nothing is missing for jane's rootless Podman.
READY = {
    **PEOPLE, "/usr/bin/podman": "5", "/usr/bin/crun": "1", "/usr/bin/newuidmap": "1", "/var/lib/systemd/linger/jane": "",
    "/etc/subuid": "jane:100000:65536\n", "/etc/subgid": "jane:100000:65536\n",
}  # fmt: skip
TOOLS = ["lspci", "nvidia-smi", "systemctl", "modprobe", "podman", "nvidia-modprobe", "apparmor_parser"]
IMAGE = "localhost/train:1"
CONSUMERS = {
    "box": {"kind": "container", "image": IMAGE, "slice": "1g.6gb"},
    "hers": {"kind": "container", "image": IMAGE, "user": "jane", "slice": "1g.6gb"},
    "daemon": {"kind": "service", "unit": "trainer.service", "slice": "1g.6gb"},
    "jane": {"kind": "user", "user": "jane", "slice": "1g.6gb"},
    "name": {"slice": "1g.6gb"},
}
MIG = {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": {"1g.6gb": 4}}}}


def host(simulated, files=None, name="a30-pair", **changes):
    """
    Such a host before anybody has anything.

    :param simulated: the fixture. :param files: laid over :data:`READY`; None takes one away. :param changes: of its description.
    """
    described = {path: text for path, text in {**READY, **(files or {})}.items() if text is not None}
    driver = {"driver": {"version": "580.95.05"}} if name == "a30-pair" else {}
    changes = {**driver, "tools": TOOLS, "units": ["trainer.service"], "images": {IMAGE: {}}, "processes": [], **changes}
    return simulated(name, files=described, **changes)


def pillar(consumers=None, sliced=None, **more):
    """A pillar that gives them slices. :param more: further keys of the section on containers."""
    integration = {"consumers": CONSUMERS if consumers is None else consumers, **more}
    return {**(MIG if sliced is None else sliced), "containers_gpu_container_integration": integration}
