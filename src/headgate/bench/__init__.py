"""Judging from outside: a hostile upstream and a bad network, to try any gateway with.

In come HTTP requests, TCP connections and orders of what shall go wrong.
Out go answers that are the same every time, and exactly the faults that were ordered.
"""
