"""
Slurm: its ``gres.conf``, which follows the slices.
"""
