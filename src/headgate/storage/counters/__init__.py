"""The drivers of `core.counters`: in memory for one process, Redis or Valkey for many.

In come places and small values with a time to live.
Out go answers that hold over every process on the same store.
"""
