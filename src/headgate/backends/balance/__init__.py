"""Which replica gets a call: what each has to do, how fast it is, and which prompts it knows already.

`balancer.py` decides and counts; the other files are what it knows: loads, prefixes, keys and the servers' own metrics.
"""
