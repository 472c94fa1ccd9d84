"""Bad inputs, one a line, over the public names of the kit; `tests/test_bad_inputs.py` tries them all.

A module here has `names()`, a dict of what its lines may use, and `LINES`, a text in which every line is an expression
that has to be refused. `# text` at the end of a line is a part of the message that is expected.
"""

import dis
from pathlib import Path

KINDS = (ValueError, TypeError, FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError, ImportError)
OURS = ("dde_kit", "data_prep")


def lines(text):
    "The expressions of a table, and what their messages have to say."
    rows = [row for row in text.splitlines() if row.strip() and not row.startswith("#")]
    return [tuple(part.strip() for part in (row + "  # ").split("  # ")[:2]) for row in rows]


def raised_on_purpose(error):
    "Does the error come from a `raise` of the kit, and not from what the kit called or computed?"
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    code = last.tb_frame.f_code
    if not any(part in OURS for part in Path(code.co_filename).parts):
        return False
    return any(i.offset == last.tb_lasti and i.opname == "RAISE_VARARGS" for i in dis.get_instructions(code))


def verdict(expression, expected, names):
    "'refused', or what went wrong: 'accepted ...', 'raw ...'."
    try:
        value = eval(expression, dict(names))
    except SystemExit as error:
        return "refused" if error.code else "accepted: the command ended with 0"
    except Exception as error:
        text = str(error)
        kind = isinstance(error, KINDS) or type(error).__module__.split(".")[0] in OURS
        if not (kind and raised_on_purpose(error) and len(text) > 20):
            return f"raw {type(error).__name__}: {text[:160]}"
        return "refused" if expected in text else f"another message: {text[:160]}"
    return f"accepted: {str(value)[:80]}"
