"""Who computes what next, in which blocks of the KV cache. No arrays, no text, no clock of its own."""
