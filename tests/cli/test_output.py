"""How tables look in a pipe."""

from __future__ import annotations

import pytest

from sextant.cli.output import print_table


def test_a_table_in_a_pipe_has_no_blanks_at_the_ends_of_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n>", "why"), [("a", 1, "x" * 300), ("b", 22, "[red]short[/]")], "none")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["name", "n", "why"],
        ["a", "1", "x" * 300],
        ["b", "22", "[red]short[/]"],
    ]
    assert [line for line in lines if line != line.rstrip()] == []
