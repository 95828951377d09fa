"""
What is wrong with a GPU, as findings with a stable code: see :mod:`.finding` for their form and :mod:`.board` for who is asked.
"""
