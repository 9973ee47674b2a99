"""Money between people: invoices of tenants, and what providers bill for the same work.

In come the ledger's entries, the price book, and providers' usage files.
Out go invoices that never change once issued, drifts, and entries that correct others.
"""
