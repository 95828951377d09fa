"""
Slices reach their users: who gets which, under a name that stays, and the files that tell it to containers, units and logins.
"""
