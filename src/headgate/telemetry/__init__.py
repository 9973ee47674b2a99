"""What the process says about itself: structured logs and Prometheus metrics, with one list of names.

In come facts from the rooms above, as plain values.
Out go JSON lines and the `/metrics` page; label values are bounded and prompt text never appears.
"""
