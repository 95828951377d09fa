"""
Kubernetes: the file by which a vendor's device plugin follows the slices.
"""
