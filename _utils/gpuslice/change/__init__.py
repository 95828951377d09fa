"""
From targets to hardware: plan, order, journal, undo.
"""
