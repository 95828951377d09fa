"""
The licence of a vGPU in its guest.
"""
