"""
Power caps of boards.
"""
