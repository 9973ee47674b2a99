"""Where state lives: SQL for what must last, counters for what replicas share from moment to moment.

In come transactions as functions of a connection, and takes, leases and small values for the counters.
Out go rows and decisions; one URL chooses the embedded or the scaled driver, and one suite tests both.
"""
