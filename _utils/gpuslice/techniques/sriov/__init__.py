"""
Virtual functions by SR-IOV.
"""
