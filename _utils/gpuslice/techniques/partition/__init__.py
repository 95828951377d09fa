"""
Compute and memory partitions of AMD's accelerators.
"""
