"""The one error that means "your input is wrong", and how a script reports it."""

import sys


class InputError(ValueError):
    """Something a user gave (an option, a file, a line in it) cannot be used.

    The message alone must do: what is wrong, where (file, line, field, value) and what to do.
    Scripts print it and exit with status 1; a traceback would only hide it.
    """


def run(main):
    """Calls `main()`; an `InputError` becomes one message on stderr and exit status 1."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
