"""
How what is written for consumers is called, for those who only have to know it.
"""

#: Where an administrator's units lie.
UNITS = "/etc/systemd/system"
#: What has a unit run with a limit of GPU memory, see :mod:`.memory_limit`.
MEMORY_DROP_IN = "51-gpu-slicing-memory.conf"
#: How the names of the slices of consumers and of what limits them begin; those of containers begin with ``gpu-slicing-``.
CONSUMERS = "gpuslicing-"
