"""
The simulated host: a machine that a YAML file describes and that behaves as the driver and the kernel do.

:mod:`gpuslice.sim.description` documents the file. The parts, from the outside in:

=============  ====================================================================================================
host           :class:`~gpuslice.sim.host.SimulatedHost`, the door that the engine uses
nvml           pynvml's functions, with its argument forms, return forms and error classes
sysfs          the files of the kernel and what happens when they are written
tools          ``lspci``, ``nvidia-smi`` and their kin
faults         what goes wrong, and when
hardware       the rules of the GPUs: what a driver allows, refuses and remembers
state          the file in which the machine lasts from one process to the next
description    the YAML file: schema and checks
=============  ====================================================================================================

Nothing is imported here, so that a host with real GPUs pays nothing for it.
"""
