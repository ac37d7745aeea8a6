"""Predictions are kept, compared and counted; none of them can stop a notebook."""

import pytest
from chapterlib import predictions
from chapterlib.predictions import predict, reveal, score


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(predictions, "asked", {})


@pytest.mark.parametrize(
    ("guess", "choices", "answer", "within", "said"),
    [
        (None, "", 7, 0.0, "You made no prediction."),
        (7, "", 7, 0.0, "You said 7: right."),
        (6, "", 7, 0.0, "You said 6: not this time."),
        (480, "", 500.5, 0.05, "You said 480: right."),
        (470, "", 500.5, 0.05, "You said 470: not this time."),
        (-480.0, "", -500.5, 0.05, "You said -480: right."),
        ("b", "abc", "b", 0.0, "You said b: right."),
        ("a", "abc", "b", 0.0, "You said a: not this time."),
        ("seven", "", 7, 0.0, "You made no prediction."),
        (True, "", 1, 0.0, "You made no prediction."),
        ("d", "abc", "b", 0.0, "You made no prediction."),
        ("ab", "abc", "b", 0.0, "You made no prediction."),
        ([1], "abc", "b", 0.0, "You made no prediction."),
    ],
)
def test_answer(guess, choices, answer, within, said, capsys):
    predict("1.a", guess, choices=choices)
    reveal("1.a", answer, within=within)
    assert said in capsys.readouterr().out


def test_a_guess_that_does_not_fit_is_told_so(capsys):
    predict("1.a", "d", choices="abc")
    assert "'d' is none of a, b, c" in capsys.readouterr().out


def test_reveal_without_question_and_score_without_answer(capsys):
    reveal("1.a", 3)
    predict("1.b", 2.5)
    score()
    out = capsys.readouterr().out
    assert "1.a: the answer is 3. You made no prediction." in out
    assert "answer: not shown yet" in out
    assert "0 right of 1 made; 2 were asked." in out


def test_score_counts(capsys):
    for name, guess in (("1.a", 1), ("1.b", 2), ("1.c", None)):
        predict(name, guess)
        reveal(name, 1)
    capsys.readouterr()
    score()
    assert capsys.readouterr().out.splitlines() == [
        "✓ 1.a    you said 1           answer: 1",
        "· 1.b    you said 2           answer: 1",
        "· 1.c    no guess             answer: 1",
        "1 right of 2 made; 3 were asked.",
    ]
