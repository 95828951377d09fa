"""
NVIDIA Multi-Instance GPU.
"""
