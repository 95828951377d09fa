"""
What the kernel's command line lacks for IOMMU and SR-IOV.
"""

from gpuslice.inventory import machine

#: CPU vendor in /proc/cpuinfo -> what the kernel needs to hear to use its IOMMU, and what is advised for hosts of VFs.
_IOMMU = {"GenuineIntel": ("intel_iommu=on", "iommu=pt"), "AuthenticAMD": ("", "iommu=pt")}


def command_line(host):
    """
    Which parameters the running kernel lacks for IOMMU and SR-IOV. Reads only.

    :return: dict: ``cmdline``, ``cpu`` (vendor, "" when unknown), ``iommu`` (whether one is in use), ``missing`` (needed),
        ``advised`` (not there, and better), ``comment``.
    """
    line, cpu = machine.text(host, "/proc/cmdline"), _cpu(host)
    active = bool(host.listdir("/sys/class/iommu")) and bool(host.listdir("/sys/kernel/iommu_groups"))
    needed, advised = _IOMMU.get(cpu, ("", "iommu=pt"))
    words = line.split()
    # Distributions may build the kernel so that the IOMMU is on without a word: what works lacks nothing.
    missing = [needed] if needed and needed not in words and not active else []
    against = [word for word in words if word in ("intel_iommu=off", "amd_iommu=off", "iommu=off")]
    better = [advised] if advised not in words and "iommu.passthrough=1" not in words else []
    return {
        "cmdline": line,
        "cpu": cpu,
        "iommu": active,
        "missing": missing,
        "against": against,
        "advised": better,
        "comment": _describe(active, missing, against, better),
    }


def _describe(active, missing, against, better):
    if against:
        return f"{', '.join(against)} switches the IOMMU off: remove it from the kernel command line and reboot."
    if missing:
        words = " ".join([*missing, *better])
        return f"Add {words} to the kernel command line and reboot: VFs can't be given to machines without an IOMMU."
    if not active:
        return "The kernel uses no IOMMU, and its command line is not why: switch it on in the firmware (VT-d, AMD-Vi, SMMU)."
    if better:
        return f"The IOMMU is in use. {better[0]} would spare devices that stay with the host its translation."
    return "The IOMMU is in use, and no parameter is missing."


def _cpu(host):
    text = machine.text(host, "/proc/cpuinfo")
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "vendor_id":
            return value.strip()
    words = text.split()
    return "GenuineIntel" if "vmx" in words else "AuthenticAMD" if "svm" in words else ""
