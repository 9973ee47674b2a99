"""Encoders, in a process of their own each: vectors of texts, and scores of documents.

In come texts as token ids, many callers' at once.
Out go vectors as raw float32 bytes, computed in batches that share the weights' way through memory.
"""
