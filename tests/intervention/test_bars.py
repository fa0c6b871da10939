"""Bars are for terminals, lines for everybody."""

from __future__ import annotations

import io
import sys

import pytest

from ilp_service.intervention.bars import Terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(terminal: Terminal, last: int) -> None:
    terminal.say("1/2 arm: training")
    for step in range(1, last + 1):
        terminal.step(step, 4, 0.5 if step > 1 else float("nan"))
    terminal.say("1/2 arm: done")


@pytest.mark.parametrize("last", [4, 2])
def test_a_terminal_sees_a_bar_that_goes_with_its_training(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    terminal = Terminal()
    assert terminal.bars
    train(terminal, last)
    shown = screen.getvalue()
    assert "training:" in shown
    # Cleared before the next line, even where the training stopped early.
    assert shown.split("\r")[-1] == "1/2 arm: done\n"


def test_elsewhere_there_are_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    assert not terminal.bars
    train(terminal, 4)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "1/2 arm: training\n1/2 arm: done\n")
