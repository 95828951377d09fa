"""
Visibility, engines and memory limits of Intel GPUs.
"""
