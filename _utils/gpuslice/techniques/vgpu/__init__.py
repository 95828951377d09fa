"""
NVIDIA vGPUs on their host.
"""
