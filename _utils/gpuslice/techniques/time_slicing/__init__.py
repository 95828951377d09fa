"""
Time-slicing: consumers take turns on a GPU. So far the pillar's words for it.
"""
