"""
Keys of the section ``[Container]`` of Quadlet units: the first Podman that knows each, and Podman's option that does the same.

Read in the tables of ``pkg/systemd/quadlet/quadlet.go`` of Podman's tags v4.4.0 to v5.8.2. Quadlet refuses a whole unit for one
key that it does not know, but 4.4 ends with status 0 all the same. What is above a version is written as ``PodmanArgs=``, which
Quadlet puts last, before the image.
"""

from typing import NamedTuple

#: First Podman with Quadlet at all.
FIRST = (4, 4)
#: First that reads units of one user from /etc/containers/systemd/users/<uid>.
USERS = (4, 6)
#: First that reads drop-ins of its units.
DROP_INS = (5, 0)

#: Podman -> keys that came with it, each with the beginning of the option that does the same ("" for none).
_CAME: dict[tuple[int, int], dict[str, str]] = {
    (4, 4): {
        "AddCapability": "--cap-add=", "AddDevice": "--device=", "Annotation": "--annotation=", "ContainerName": "--name=",
        "DropCapability": "--cap-drop=", "Environment": "--env=", "EnvironmentFile": "--env-file=",
        "EnvironmentHost": "--env-host=", "Exec": "", "ExposeHostPort": "--expose=", "Group": "", "Image": "",
        "Label": "--label=", "Network": "--network=", "NoNewPrivileges": "", "Notify": "", "PodmanArgs": "",
        "PublishPort": "--publish=", "ReadOnly": "--read-only=", "RemapGid": "", "RemapUid": "", "RemapUidSize": "",
        "RemapUsers": "", "RunInit": "--init=", "SeccompProfile": "--security-opt=seccomp=", "Timezone": "--tz=",
        "User": "--user=", "VolatileTmp": "", "Volume": "--volume=",
    },
    (4, 5): {
        "HealthCmd": "--health-cmd=", "HealthInterval": "--health-interval=", "HealthOnFailure": "--health-on-failure=",
        "HealthRetries": "--health-retries=", "HealthStartPeriod": "--health-start-period=",
        "HealthStartupCmd": "--health-startup-cmd=", "HealthStartupInterval": "--health-startup-interval=",
        "HealthStartupRetries": "--health-startup-retries=", "HealthStartupSuccess": "--health-startup-success=",
        "HealthStartupTimeout": "--health-startup-timeout=", "HealthTimeout": "--health-timeout=", "IP": "--ip=",
        "IP6": "--ip6=", "LogDriver": "--log-driver=", "Mount": "--mount=", "Rootfs": "", "Secret": "--secret=",
        "SecurityLabelDisable": "--security-opt=label=disable", "SecurityLabelFileType": "--security-opt=label=filetype:",
        "SecurityLabelLevel": "--security-opt=label=level:", "SecurityLabelType": "--security-opt=label=type:",
        "Tmpfs": "--tmpfs=", "UserNS": "--userns=",
    },
    (4, 6): {
        "AutoUpdate": "--label=io.containers.autoupdate=", "HostName": "--hostname=", "Mask": "--security-opt=mask=",
        "Pull": "--pull=", "SecurityLabelNested": "--security-opt=label=nested", "Sysctl": "--sysctl=",
        "Unmask": "--security-opt=unmask=", "WorkingDir": "--workdir=",
    },
    (4, 7): {
        "DNS": "--dns=", "DNSOption": "--dns-option=", "DNSSearch": "--dns-search=", "PidsLimit": "--pids-limit=",
        "ShmSize": "--shm-size=", "Ulimit": "--ulimit=",
    },
    (4, 8): {
        "ContainersConfModule": "", "GIDMap": "--gidmap=", "GlobalArgs": "", "ReadOnlyTmpfs": "--read-only-tmpfs=",
        "SubGIDMap": "--subgidname=", "SubUIDMap": "--subuidname=", "UIDMap": "--uidmap=",
    },
    (5, 0): {"Entrypoint": "--entrypoint=", "Pod": "", "StopTimeout": "--stop-timeout="},
    (5, 1): {"GroupAdd": "--group-add="},
    (5, 2): {"LogOpt": "--log-opt=", "NetworkAlias": "--network-alias=", "StopSignal": "--stop-signal="},
    (5, 3): {
        "AddHost": "--add-host=", "CgroupsMode": "--cgroups=", "HealthLogDestination": "--health-log-destination=",
        "HealthMaxLogCount": "--health-max-log-count=", "HealthMaxLogSize": "--health-max-log-size=", "ServiceName": "",
        "StartWithPod": "",
    },
    (5, 5): {"Memory": "--memory=", "ReloadCmd": "", "ReloadSignal": "", "Retry": "--retry=", "RetryDelay": "--retry-delay="},
    (5, 7): {"HttpProxy": "--http-proxy="},
    (5, 8): {"AppArmor": "--security-opt=apparmor="},
}  # fmt: skip


class Key(NamedTuple):
    """A key of ``[Container]``. :ivar since: Podman's (major, minor); :ivar option: what does the same before, "" for nothing."""

    name: str
    since: tuple[int, int]
    option: str


KEYS = {name: Key(name, since, option) for since, names in _CAME.items() for name, option in names.items()}


def line(name: str, value: str, podman: tuple[int, int, int]) -> str:
    """
    The line for a key, or for the option of Podman that does the same where this one does not know the key.

    :param name: of :data:`KEYS`; with an option where it is newer than 4.4. :param podman: the version that is installed.
    """
    key = KEYS[name]
    return f"{name}={value}" if key.since <= podman[:2] else f"PodmanArgs={key.option}{value}"


def words(version: tuple[int, ...]) -> str:
    """A version as it is written: ``5.4.2``."""
    return ".".join(map(str, version))
