"""Providers and model servers behind one protocol (`core.ports.Backend`), one file per dialect, and their health.

In come calls and targets, and the settings that name each server.
Out go answers: whole bodies or streams, whose failures are errors of `core.errors` and nothing else.
"""
