"""What stops a store from being opened. Errors of an open store are those of `core.errors`."""


class StorageError(Exception):
    """The store cannot be used as configured. The message names the remedy, for the person who starts the server."""
