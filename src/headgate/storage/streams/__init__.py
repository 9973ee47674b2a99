"""The drivers of `core.streams`: in memory for one process, Redis Streams for many.

In come the frames of answers as they are made, each with its number.
Out goes whatever follows a number, once, to whoever asks; bounded in bytes and in time.
"""
