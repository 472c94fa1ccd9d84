"Every public name, given what does not fit: nothing is silently accepted, and nearly all is refused in words."

import importlib
import pkgutil

import bad_inputs
import pytest

TABLES = [m.name for m in pkgutil.iter_modules(bad_inputs.__path__)]


@pytest.fixture(scope="module", params=TABLES)
def judged(request, tmp_path_factory):
    "What became of every line of one table."
    table = importlib.import_module(f"bad_inputs.{request.param}")
    names = table.names(tmp_path_factory.mktemp(request.param))
    return {row: bad_inputs.verdict(*row, names) for row in bad_inputs.lines(table.LINES)}


def test_nothing_bad_is_accepted(judged):
    got = {row[0]: v for row, v in judged.items() if v.startswith("accepted")}
    assert not got, "\n".join(f"{k}  ->  {v}" for k, v in got.items())


def test_refusals_say_what_was_expected(judged):
    got = {row: v for row, v in judged.items() if v.startswith("another")}
    assert not got, "\n".join(f"{k}  ->  {v}" for k, v in got.items())


def test_at_most_five_percent_are_raw(judged):
    got = {row[0]: v for row, v in judged.items() if v.startswith("raw")}
    assert len(got) <= 0.05 * len(judged), "\n".join(f"{k}  ->  {v}" for k, v in got.items())


def test_there_are_at_least_300():
    tables = [importlib.import_module(f"bad_inputs.{name}").LINES for name in TABLES]
    rows = [row for table in tables for row, _ in bad_inputs.lines(table)]
    assert len(rows) == len(set(rows)) >= 300
