"""
Whether the tests notice small defects: each is put into a copy of the source, one at a time, and the tests that reach its
statement are run until one fails.

:mod:`~tests.mutation.defects` finds where a defect can be put, :mod:`~tests.mutation.reach` learns once which test reaches which
statement, :mod:`~tests.mutation.trial` tries one defect, and ``equivalent.yaml`` lists those that change nothing that can be
seen. ``python -m tests.mutation --help`` tells the rest.
"""
