"""What stops a model from being loaded. Errors of a running engine are those of `core.errors`."""


class ModelFolderError(ValueError):
    """The model folder cannot be served: a file is missing, damaged, or asks for something unsupported.

    The message names the file and what is wrong with it, for the person who chose the folder.
    """
