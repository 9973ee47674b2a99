"""The drivers of `core.limiter`: in memory for one process, Redis or Valkey for many.

In come plans of rates, places and budget accounts, and claims on them.
Out go verdicts that hold over every process on the same store.
"""
