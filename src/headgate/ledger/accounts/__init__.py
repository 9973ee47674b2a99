"""Questions to the ledger: who used how much, of what, when, for how much money.

In come questions with filters, groups and times.
Out go exact sums and entries, a bounded page at a time.
"""
