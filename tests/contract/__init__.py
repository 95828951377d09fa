"""
What every technique promises, on every example host on which it can do anything: see the modules of this package.

Nothing of Salt is in it, and every call of a technique goes through :mod:`.house`.
"""
