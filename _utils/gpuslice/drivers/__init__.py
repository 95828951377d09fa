"""
How one interface of kernel or vendor is read and written, and what its errors mean.
"""
