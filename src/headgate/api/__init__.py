"""The door: HTTP and server-sent events, in OpenAI's dialect.

In come requests; each is checked at its head, decoded once into a `core.call.Call` and handed to one function below.
Out go the reply's bytes, framed and encoded as the wire contract says, and every error in the dialect's own shape.
"""
