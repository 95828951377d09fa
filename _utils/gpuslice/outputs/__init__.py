"""
Files that tell others about slices, as pure functions: of slices, consumers and settings, to path and text.
"""
