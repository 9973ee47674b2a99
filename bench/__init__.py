"""Measures Headgate from outside: real processes, real sockets, HTTP as a stranger speaks it.

In come a built Headgate and, where installed, nginx as a yardstick. Out go tables and JSON files in `bench/results`.
"""
