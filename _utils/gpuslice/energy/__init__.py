"""
What of the energy of a board each of its slices is charged with. No hardware measures a slice: the board's counter is what is
measured, and everything else is an apportioning of it, whose method is told with each figure.
"""
