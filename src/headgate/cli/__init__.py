"""The commands: each parses its arguments, calls `app`, and prints.

In comes a command line.
Out go text for people (or JSON with `--json`) and an exit status.
"""
