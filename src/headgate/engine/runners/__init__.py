"""Runners execute the scheduler's plans on one kind of hardware.

In comes a `StepPlan`: token ids, positions and block tables.
Out go logits, and the tokens drawn from them.
"""
