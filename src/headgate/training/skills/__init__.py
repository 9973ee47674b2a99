"""One module per skill of the demonstration model, each with `sample` and `check`.
In comes a seeded `random.Random`; nothing else decides what is made.
Out goes an `Example` with its expected answer, or a verdict on an answer.
"""
