"""
The replay after a boot, and its unit.
"""
