"""Idempotency keys: which calls were begun under which key, and the answers that are kept for them."""
