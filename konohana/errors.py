"""What goes wrong through no fault of this program."""


class UserError(Exception):
    """A user's mistake. Scripts print its text and exit with status 2; it never shows a traceback.

    The text names the file (and line or frame), what is wrong and what to do.
    """
