"""What was used and what it cost: receipts, prices, invoices, and what is told to others about them.

In come receipts, written to a local log before an answer's last byte.
Out go rows in SQL, each exactly once, the answers to questions about them, and events for brokers.
"""
