"""Configuration, and the one place that builds everything: start, reload, drain, stop.

In come a settings file, the environment and the signals of the operating system.
Out go the wired parts of a running server, closed in the reverse order of their building.
"""
