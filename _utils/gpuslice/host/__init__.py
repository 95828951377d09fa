"""
The machine's door: a real host, and what stands behind it.
"""
