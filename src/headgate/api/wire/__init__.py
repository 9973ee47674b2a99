"""What stands on the wire: decoding of bodies, encoding of answers. No I/O, no `await`.

In come bytes and headers of a request, or the events of an answer.
Out go a checked `Call`, or JSON and stream frames.
"""
