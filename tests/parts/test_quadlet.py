"""
Quadlet itself, that of Podman 5.4, on every unit that we can write: it refuses a unit for one key that it does not know.
"""

import os
import subprocess

import pytest

from gpuslice.outputs import quadlet
from gpuslice.outputs import unit_text
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.quadlet_keys import KEYS
from tests.parts import containers
from tests.support import needs

pytestmark = pytest.mark.slow

PODMAN = (5, 4, 2)
TRAIN = Consumer("train", "container", image="registry.example/train:1")
JOB = "[Container]\nImage=localhost/job\nAddDevice=nvidia.com/gpu=all\nAddDevice=/dev/fuse\n"
#: What keys want that take not any text.
VALUES = {
    "RemapUsers": "keep-id", "Rootfs": "", "Pod": "", "Group": "", "ExposeHostPort": "80", "Mount": "type=tmpfs,destination=/a",
    "PublishPort": "80:80", "Annotation": "a=b", "Label": "a=b", "Environment": "a=b", "StartWithPod": "true",
}  # fmt: skip
#: Keys that Quadlet wants another one beside, or in place of.
BESIDE = {"Rootfs": "Rootfs=/srv\nImage=", "Pod": "Pod=", "Group": "User=1\nGroup=1", "RemapUid": "RemapUsers=manual\nRemapUid=1"}
BESIDE |= {"RemapGid": "RemapUsers=manual\nRemapGid=1", "RemapUidSize": "RemapUsers=auto\nRemapUidSize=9"}


@pytest.fixture
def generate(tmp_path):
    """``generate(files, user)``: the return code, the services by name and what is said, of units by name."""
    needs.require(containers.no_quadlet())

    def run(files, user=False):
        for path, text in files.items():
            file = tmp_path / "units" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        command = [containers.QUADLET, "-dryrun", *(["-user"] if user else [])]
        environment = {**os.environ, "QUADLET_UNIT_DIRS": str(tmp_path / "units")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, services(done.stdout), done.stderr

    return run


def services(text):
    """Name -> settings of the units that a dry run prints."""
    found = {}
    for part in text.split("\n---")[0 if text.startswith("---") else 1 :]:
        name, _, body = part.removeprefix("---").partition("---\n")
        found[name] = unit_text.settings(body)
    return found


def command_line(service):
    """The words of the call of Podman that starts the container."""
    (line,) = unit_text.values(service, "Service", "ExecStart")
    return unit_text.words(line)


@pytest.mark.parametrize("uid", [None, 1000])
@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("limits", [{}, {"memory_gb": 2, "compute_units": 3}])
def test_quadlet_takes_each_unit_of_ours(generate, uid, runtime, limits):
    consumer = TRAIN._replace(security_profile="gpu-slicing", **limits)
    file = quadlet.unit(consumer, PODMAN, uid=uid, runtime=runtime, groups=[44])
    code, found, said = generate({os.path.basename(file.path): file.text}, user=uid is not None)
    assert code == 0, said
    service = found[quadlet.service_name(consumer)]
    words = command_line(service)
    assert words[words.index("--device") + 1] == "gpu-slicing/consumer=train" and words.count("--device") == 1
    assert words[words.index("--cap-drop") + 1] == "all"
    assert {"--security-opt=no-new-privileges", "--read-only", "--cgroups=split"} <= set(words)
    assert "seccomp" not in " ".join(words) and words[-1] == TRAIN.image
    assert "--security-opt=apparmor=gpu-slicing" in words
    groups = [words[at + 1] for at, word in enumerate(words) if word == "--group-add"]
    assert groups == (["44"] if uid is None else ["keep-groups"] if runtime == "crun" else [])
    assert unit_text.values(service, "Service", "MemoryMax") == (["2G"] if limits else [])
    assert unit_text.values(service, "Service", "CPUQuota") == (["300%"] if limits else [])
    assert ("gpu-slicing.service" in unit_text.values(service, "Unit", "After")) == (uid is None)
    assert unit_text.values(service, "Install", "WantedBy") == ["default.target" if uid else "multi-user.target"]


@pytest.mark.parametrize("older", [(4, 4, 0), (4, 6, 0), (4, 9, 5), (5, 0, 0)])
def test_what_is_written_for_an_older_podman_means_the_same(generate, older):
    file = quadlet.unit(TRAIN, older, groups=[44])
    code, found, said = generate({"gpu-slicing-train.container": file.text})
    assert code == 0, said
    words = command_line(found["gpu-slicing-train.service"])
    assert "--group-add=44" in words and "--read-only" in words and "--tmpfs" not in words


@pytest.mark.parametrize("key", sorted(KEYS))
def test_quadlet_knows_the_keys_that_its_version_has_by_our_table_and_no_others(generate, key):
    value = VALUES.get(key, "1")
    line = BESIDE.get(key, f"{key}={value}")
    code, _, said = generate({"a.container": f"[Container]\nImage=localhost/a\n{line}\n"})
    unknown = f"unsupported key '{key}' in group 'Container'"
    assert (code != 0, unknown in said) == ((True, True) if KEYS[key].since > PODMAN[:2] else (False, False)), said


def test_every_option_that_stands_for_a_key_is_one_that_podman_gets(generate):
    known = {name: key for name, key in KEYS.items() if key.option and key.since <= PODMAN[:2]}
    lines = [f"{name}={VALUES.get(name, '1') or 'a'}" for name in known if name not in ("Pod", "Rootfs")]
    code, found, said = generate({"a.container": "\n".join(["[Container]", "Image=localhost/a", *lines])})
    assert code == 0, said
    words = " ".join(command_line(found["a.service"])).replace(" -v ", " --volume=")
    words = words.replace("-w=", "--workdir=").replace("--name systemd-%N", "--name=")
    missing = {name for name, key in known.items() if key.option not in words and key.option.replace("=", " ", 1) not in words}
    # Booleans stand alone in the words of Quadlet.
    assert {name for name in missing if known[name].option.rstrip("=") not in words} == set()


def test_a_drop_in_puts_the_slice_in_place_of_what_a_unit_had(generate):
    consumer = Consumer("train", "container", unit="job.container", memory_gb=2)
    file = quadlet.adopted(consumer, PODMAN)
    code, found, said = generate({"job.container": JOB, "job.container.d/50-gpu-slicing.conf": file.text})
    assert code == 0, said
    words = command_line(found[quadlet.service_name(consumer)])
    assert [words[at + 1] for at, word in enumerate(words) if word == "--device"] == ["gpu-slicing/consumer=train"]
    assert unit_text.values(found["job.service"], "Service", "MemoryMax") == ["2G"]
    assert "--cap-drop" not in words


@pytest.mark.parametrize("value", ['a="50%% of it"', 'a="b c" d=e', "a='$HOME'", "a=b\\\\c", "a=é", "a=;#[]"])
def test_values_of_the_pillar_reach_podman_as_a_unit_file_has_them(generate, value):
    file = quadlet.unit(TRAIN._replace(quadlet={"Container": {"Label": value}}), PODMAN)
    code, found, said = generate({"gpu-slicing-train.container": file.text})
    assert code == 0, said
    words = command_line(found["gpu-slicing-train.service"])
    labels = {words[at + 1] for at, word in enumerate(words) if word == "--label"}
    assert labels == set(unit_text.words(value))


@pytest.mark.skipif(os.geteuid() != 0, reason="units of a user in /etc need root")
def test_units_and_drop_ins_of_a_user_are_read_by_his_quadlet_only(tmp_path):
    needs.require(containers.no_quadlet())
    needs.require(needs.lacking("unshare"))
    own = quadlet.unit(TRAIN, PODMAN, uid=1234)
    adopted = quadlet.adopted(Consumer("other", "container", unit="job.container"), PODMAN, uid=1234)
    home = tmp_path / "home"
    (home / ".config/containers/systemd").mkdir(parents=True)
    (home / ".config/containers/systemd/job.container").write_text(JOB, encoding="utf-8")
    for file in (own, adopted):
        (tmp_path / file.path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path.lstrip("/")).write_text(file.text, encoding="utf-8")
    script = """
set -eu
place=$1 home=$2 quadlet=$3
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
rm -rf /etc/containers/systemd
mkdir -p /etc/containers
cp -r "$place/etc/containers/systemd" /etc/containers
cp -r "$home" "$quadlet" /mnt
for uid in 1234 1235; do echo "u$uid:x:$uid:$uid::/:/bin/sh" >>/etc/passwd; done
chmod -R a+rX /mnt /etc/containers
for uid in 1234 1235; do
    echo "== $uid"
    HOME=/mnt/home setpriv --reuid $uid --regid $uid --clear-groups /mnt/quadlet -dryrun -user
done
echo "== 0"
/mnt/quadlet -dryrun
"""
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "x", tmp_path, home, containers.QUADLET]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    _, his, another, root = done.stdout.split("== ")
    mine, theirs = services(his.partition("\n")[2]), services(another.partition("\n")[2])
    assert set(mine) == {"gpu-slicing-train.service", "job.service"} and set(theirs) == {"job.service"}
    assert "gpu-slicing/consumer=other" in command_line(mine["job.service"])
    assert "nvidia.com/gpu=all" in command_line(theirs["job.service"])
    assert root.strip() == "0"
