"""
What the layouts, settings and steps of each technique look like as plain data, to check those that come from a file: a layout on
record is brought back, a step in the journal is undone.
"""

from gpuslice.shape import anything
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import record
from gpuslice.shape import row
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth
from gpuslice.shape import whole

ADDRESS = text(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
#: What is given to systemctl and modprobe; what begins with a dash would be an option to them.
UNIT = text(r"(?!-)[A-Za-z0-9:_.@\\-]+\.[a-z]+")
MODULE = text(r"(?!-)[A-Za-z0-9_-]+")
SLICE = text(r"[A-Za-z0-9:_.\\-]+\.slice")

_LINE = text(r"[^\x00-\x1f\x7f]*")
_WORD = text(r"[A-Za-z0-9_.+-]*")
#: A file below a directory that is known, which no ".." leads out of.
_FILE = text(r"(?!\.)[A-Za-z0-9:_.-]+")
_PATH = text(r"(?!\.)[A-Za-z0-9:_.-]+(?:/(?!\.)[A-Za-z0-9:_.-]+)*")
_NUMBER = whole(-(2**31), 2**64)

_MIG = record(
    {"enabled": truth, "instances": listing(row(_LINE, maybe(whole(0, 255)), listing(row(_LINE, maybe(whole(0, 255))))))},
    {"pending": truth},
)
_GIM = record({"driver": _WORD, "numvfs": whole(0, 65535), "option": maybe(whole(0, 65535))})
_FUNCTIONS = record(
    {"driver": _WORD, "numvfs": whole(0, 65535), "autoprobe": maybe(whole(0, 1)), "values": table(_PATH, _NUMBER)},
    {"files": _WORD, "provisioning": _WORD},
)
_LICENCE = {"server": _LINE, "port": _LINE, "feature": _LINE, "token": _LINE, "service": truth}
_VGPUS = record(
    {"vgpus": listing(row(_LINE, _LINE, _LINE)), "numvfs": whole(0, 65535)},
    {"heterogeneous": truth, "scheduler": _LINE, "mig": _MIG},
)

LAYOUTS = {
    "mig": _MIG,
    "partition": record({"compute": maybe(_LINE), "memory": maybe(_LINE)}, {"alloc": maybe(_LINE)}),
    "passthrough": record({"driver": _WORD, "override": _WORD, "origin": _WORD}),
    "sriov": either(_GIM, _FUNCTIONS),
    "vgpu": either(record({"license": record(_LICENCE)}), _VGPUS),
    "level-zero": record(
        {
            "files": table(_FILE, text()),
            "ccs": table(_PATH, _NUMBER),
            "engines": table(_PATH, table(_WORD, _NUMBER)),
            "vram": table(SLICE, table(_PATH, _NUMBER)),
        }
    ),
}

_COUNTS = table(_LINE, whole(0, 65535))
_ENTRIES = listing(row(_LINE, maybe(whole(0, 255)), whole(1, 64)))
#: Settings that can wait for a reboot, as a pillar or a function asks for them.
_ASKED = {
    "mig": either(
        record({"enabled": truth}), record({"entries": _ENTRIES, "compute_instances": whole(1, 64)}, {"enabled": truth})
    ),
    "partition": record({}, {"compute": _WORD, "memory": _WORD, "alloc": _WORD, "enabled": truth, "reload": truth}),
    "sriov": record(
        {"vf_count": whole(0, 65535), "profile": _WORD, "pf_device": _LINE, "vf_devices": listing(ADDRESS), "autoprobe": truth,
         "vfs": table(_WORD, table(_WORD, anything)), "scheduling": table(_WORD, anything)},
        {"reload": truth, "remove": truth},
    ),
    "vgpu": record(
        {},
        {"profile": _LINE, "profiles": _COUNTS, "count": whole(0, 65535), "scheduler": _LINE, "license_server": _LINE,
         "license_port": whole(0, 65535), "feature": _WORD, "client_token": _LINE, "clear": truth, "remove": truth},
    ),
}  # fmt: skip
#: Arguments of steps from which an undo learns what was made.
STEPS = {
    ("mig", "create_gi"): {"start": whole(0, 255)},
    ("vgpu", "create_vgpu"): {"at": _LINE, "uuid": _LINE},
}


def settings(technique):
    """The shape of settings of a technique that wait for a reboot; a layout is asked for by settings too."""
    layout = LAYOUTS.get(technique, anything)
    earlier = record({"layout": layout}, {"reload": truth, "undo": truth, "created": listing(anything), "mig": anything})
    return either(_ASKED[technique], earlier) if technique in _ASKED else earlier
