"""
Nomad: the file by which its device plugin for NVIDIA knows what it must not give.
"""
