"""
Which GPUs there are, and what machine they are in.
"""
