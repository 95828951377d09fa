"""
Multi-Process Service: consumers run side by side. So far the pillar's words for it.
"""
