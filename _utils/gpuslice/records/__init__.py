"""
What outlasts a run.
"""
