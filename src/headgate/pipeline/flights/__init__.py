"""Single flight: identical cacheable calls that are in progress at the same time run once.

Calls come in with their leases, as they would go to dispatch. Each gets a reply of its own: of the run that it leads,
or of one that it joined and does not pay for.
"""
