"""
Whole GPUs and MIG devices for several consumers in turn.
"""
