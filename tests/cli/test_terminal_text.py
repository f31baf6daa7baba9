"""Text of others on the terminal: control characters are shown, never sent."""

import json
import logging

import pytest

from adapterhub.cli import console
from adapterhub.cli.main import message
from adapterhub.errors import TransferError

HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\rd\x9b31me\u202ef\u2028g"
SHOWN = r"a\u001b]0;title\u0007b\u001b[2Jc\u000dd\u009b31me\u202ef\u2028g"


def test_control_characters_are_escaped_and_text_is_not():
    assert console.plain(HOSTILE) == SHOWN
    plain = "größer\t日本語 👩‍🔬 עברית\nline"
    assert console.plain(plain) == plain


@pytest.mark.parametrize("markup", [True, False])
def test_lines_of_the_console(capsys, markup):
    console.output().print(HOSTILE, markup=markup)
    assert capsys.readouterr().out == f"{SHOWN}\n"


def test_cells_of_a_table(capsys):
    shown = console.table("name", title=HOSTILE)
    shown.add_row(HOSTILE)
    console.output().print(shown)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert text.count(SHOWN) == 2


def test_lines_without_a_console_and_json(capsys):
    console.say(HOSTILE)
    console.print_json({"label": HOSTILE})
    text = capsys.readouterr().out
    assert text.startswith(f"{SHOWN}\n")
    assert json.loads(text.partition("\n")[2]) == {"label": HOSTILE}
    assert "\x9b" not in text
    assert "\u202e" not in text


def test_errors_and_log_lines():
    assert message(TransferError(HOSTILE, place="team/fruit")) == f"error: team/fruit: {SHOWN}"
    record = logging.makeLogRecord({"msg": HOSTILE})
    assert console.PlainFormatter("%(message)s").format(record) == SHOWN
