"""
Single virtual functions for virtual machines.
"""
