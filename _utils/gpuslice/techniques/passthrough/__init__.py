"""
Whole GPUs for virtual machines.
"""
