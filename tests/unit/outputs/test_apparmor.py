"""The profile that is shipped, and what can be told of profiles of others."""

import pytest

from gpuslice.outputs import apparmor

NODES = [("/dev/nvidia0", "rw"), ("/dev/nvidia-caps/nvidia-cap21", "r"), ("/dev/dri/renderD128", "rw")]
ALL = [path for path, _ in NODES]


def closed(rules, name="x", head="profile x {", more=None):
    return apparmor.closed({"/etc/apparmor.d/x": f"{head}\n{rules}\n}}\n", **(more or {})}, name, NODES)


def test_the_shipped_profile_opens_slices_and_keeps_what_cuts_gpus_closed():
    management = [("/dev/nvidia-caps/nvidia-cap1", "r"), ("/dev/nvidia-caps/nvidia-cap2", "r")]
    nodes = [*NODES, ("/dev/kfd", "rw"), ("/dev/vfio/7", "rw"), *management]
    found = apparmor.closed({"/etc/apparmor.d/gpu-slicing": apparmor.PROFILE}, apparmor.NAME, nodes)
    assert found == [path for path, _ in management]


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("", ALL),
        ("  file,", []),
        ("  /** rw,", []),
        ("  /dev/* rw,", ALL[1:]),
        ("  /dev/** rw,\n  deny /dev/nvidia[0-9] w,", ALL[:1]),
        ("  /dev/{nvidia*,dri/**} rw,\n  /dev/nvidia-caps/* r,", []),
        ("  rw /dev/nvidia?,\n  owner /dev/dri/* rw, # ours\n  audit /dev/nvidia-caps/** r,", []),
        ("  /dev/nvidia0 r,\n  /dev/nvidia-caps/* w,\n  @{unknown}/dri/* rw,", ALL),
        ("  capability,\n  network inet,\n  signal (receive) peer={a,b},\n  /dev/** rw,", []),
        ("  deny @{PROC}/** w,\n  /dev/** rw,", []),
    ],
)
def test_which_nodes_the_text_of_a_profile_keeps_closed(rules, left):
    assert closed(rules) == left


@pytest.mark.parametrize(
    "head", ["profile x {", "profile x /usr/bin/x flags=(complain) {", 'profile "x" {', "x flags=(attach_disconnected) {"]
)
def test_heads_of_profiles(head):
    assert closed("  file,", head=head) == []


def test_a_profile_that_no_file_has_is_not_known():
    assert closed("  file,", name="y") is None and apparmor.closed({}, "x", NODES) is None
    assert apparmor.closed({"/etc/apparmor.d/x": "profile x {\n  file,\n"}, "x", NODES) is None


def test_includes_are_followed_and_a_circle_ends():
    more = {
        "/etc/apparmor.d/abstractions/a": "  include <abstractions/b>\n",
        "/etc/apparmor.d/abstractions/b": "  #include <abstractions/a>\n  /dev/nvidia* rw,\n  include if exists <local/x>\n",
        "/etc/apparmor.d/local/x/one": "  /dev/dri/* rw,\n",
    }
    assert closed("  #include <abstractions/a>", more=more) == ALL[1:2]


def test_what_is_loaded():
    loaded = "a (enforce)\nb (complain)\nname with blanks (enforce)"
    assert [apparmor.has(loaded, name) for name in ("a", "b", "name with blanks", "c", "a (enforce)")] == [True] * 3 + [False] * 2
    assert [apparmor.enforced(loaded, name) for name in ("a", "b", "c")] == [True, False, False]
