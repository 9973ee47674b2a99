"""The ground floor: the types, errors, clock, ids and ports that every room shares.

In comes nothing: this room imports nothing of ours and does no I/O.
Out go frozen values and small protocols that the rooms above pass to each other.
"""
