"""
What an operation takes, in seconds, for the estimate that a plan prints. Measured by others, so each names its source; the
machine at hand may differ by a factor of a few.
"""

#: operation -> (seconds, where the figure comes from)
COSTS = {
    "create_gi": (0.11, "A30, sample output of a public MIG tool: GI and CI together 0.13 to 0.16 s"),
    "create_ci": (0.05, "A30, as above"),
    "destroy_ci": (0.03, "A30, sample output of a public MIG tool: CI and GI together 0.10 to 0.11 s"),
    "destroy_gi": (0.07, "A30, as above; a busy GPU takes about 1 s"),
    "set_mode_with_reset": (4.5, "A100 80GB SXM, public log: 4 to 5 s a GPU"),
    "set_mode": (1.0, "no public figure; Hopper and later switch without a reset"),
    "end_process": (1.0, "our own patience is 10 s, most programs need less than one"),
    "load_module": (0.5, "no public figure; modprobe of a small module"),
    "unbind": (1.0, "no public figure; the driver shuts the GPU down"),
    "bind": (2.0, "no public figure; a graphics driver that takes its GPU back needs a few seconds, vfio-pci nearly none"),
    "sysfs_write": (0.01, "no public figure; a file of the kernel that touches no hardware"),
    "file_write": (0.02, "no public figure; a small file with fsync"),
    "set_ccs_mode": (0.5, "no public figure; the engine block is reset"),
    "set_compute_partition": (3.0, "no public figure; the compute driver is torn down and probed again for one GPU"),
    "set_memory_partition": (0.1, "no public figure; only notes a request"),
    "reload_amdgpu": (90.0, "AMD's documentation of amd-smi: one to two minutes on eight GPUs"),
    "sriov_numvfs": (2.0, "no public figure; the kernel's write makes or removes all functions, and can take seconds"),
    "sriov_manage": (15.0, "a container image of NVIDIA's driver waits 15 s by default, the vendor advises up to 30 s"),
    "create_vgpu": (0.5, "no public figure; the driver reserves framebuffer"),
    "remove_vgpu": (0.5, "no public figure"),
    "reload_units": (0.3, "no public figure; systemd and its generators read all unit files"),
    "restart_unit": (2.0, "no public figure; a small daemon that is told to stop and start"),
    "unload_gim": (30.0, "no public figure for this module; a public AMD tool waits 30 s for amdgpu"),
    "reset": (8.0, "no public figure for a reset that works; refusals return after 5 to 8 s"),
}


#: Where the seconds of a step are known from: the medians of this host, somebody's figures, or nobody's.
MEASURED, PUBLIC, GUESS = "measured here", "public figure", "guess"
#: How the source of what nobody published begins.
_OWN = ("no public figure", "our own")


def seconds(operation):
    """Estimated seconds of an operation."""
    return COSTS[operation][0]


def source(operation):
    """Where these seconds are known from: :data:`PUBLIC` or :data:`GUESS`."""
    return GUESS if COSTS[operation][1].startswith(_OWN) else PUBLIC
