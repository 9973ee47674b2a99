"""A model server that misbehaves as ordered, and a TCP proxy that does."""
