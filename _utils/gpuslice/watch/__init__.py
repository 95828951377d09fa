"""
The health of GPUs and their slices over time: what :mod:`gpuslice.health` finds and what the kernel says, look after look, as a
status that worsens at once and improves on evidence only.
"""
