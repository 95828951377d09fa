"""
Multi-Process Service: consumers run side by side on a GPU or a MIG device, each with limits.
"""
