"""A small HTTP/1.1 client for model servers: asyncio protocols, httptools for parsing, one pool per server.

In come request bytes, timeouts and a deadline.
Out come exchanges: a status, headers, and the body as bytes while they arrive.
"""
