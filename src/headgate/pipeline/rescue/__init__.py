"""A stream that broke after its beginning was sent goes on from another attempt.

`hold_back` keeps the beginning back, `sent` knows what the caller has, `replay` and `carry_on` join another answer to
it, `onward` writes that answer in the form of the first, and `rescue` leads them.
"""
