"""Judging a running system: readiness, and the doctor's first checks.

In come facts about parts, as callables handed over at start.
Out go verdicts with one line of evidence and a remedy each.
"""
