"""The drivers of `core.counters`: in memory for one process, Redis or Valkey for many.

In come takes, leases and small values with a time to live.
Out go decisions that hold over every process on the same store.
"""
