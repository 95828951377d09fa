"""
What is wrong with a GPU.
"""
