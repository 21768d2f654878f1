"""What a user can put right: one base for all errors whose message is one line that says how."""


class ModelCompressionError(Exception):
    """The command line prints its message and exits with status 1; a traceback would say no more."""
