"""The request path: auth, admission, route, dispatch and meter, as one straight function in `gateway.py`.

In comes a `Call`; snapshots of keys, routes and prices are read from memory.
Out goes a `Reply` that owns everything opened for it, and one receipt per attempt in the ledger.
"""
