"""
The simulated host: a machine that a YAML file describes and that behaves as the driver and the kernel do.

:mod:`gpuslice.sim.description` documents the file. The parts, from the outside in:

=============  ====================================================================================================
__main__       what can be made to happen on it from a shell
host           :class:`~gpuslice.sim.host.SimulatedHost`, the door that the engine uses
tools          ``lspci``, ``nvidia-smi`` and their kin
nvml           pynvml's functions, with its argument forms, return forms and error classes: ``nvml_session`` has what all
               of them share, ``nvml_mig`` and ``nvml_vgpu`` those of their technology
sysfs          the files of the kernel and what happens when they are written: a ``tree`` that ``nvidia_files``,
               ``amdgpu``, ``gim``, ``xe``, ``xe_ccs``, ``vfio``, ``vgpu``, ``units`` and ``toolkit`` fill with what is theirs
foreign        what other tools do meanwhile
vgpu_rules     the rules of vGPUs, of the types in ``vgpu_types``
hardware       the rules of the GPUs: what a driver allows, refuses and remembers
kernel_log     what the kernel says of them
pci            the PCI functions of the machine and their IOMMU groups
state          the file in which the machine lasts from one process to the next
description    the YAML file: schema and checks, with ``devices`` for GPUs and ``mistakes`` that notes all that is wrong
faults         what goes wrong, and when
=============  ====================================================================================================

None imports one that stands above it.

Nothing is imported here, so that a host with real GPUs pays nothing for it.
"""
