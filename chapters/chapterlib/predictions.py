"""Say what will happen before you look: guesses that are kept, answered and counted."""

from __future__ import annotations

from dataclasses import dataclass

Answer = str | float


@dataclass
class Prediction:
    """One question: the choices (letters; none: a number), the guess and, later, the answer."""

    choices: str = ""
    guess: Answer | None = None
    answer: Answer | None = None
    right: bool = False


asked: dict[str, Prediction] = {}


def predict(name: str, guess: Answer | None, *, choices: str = "") -> None:
    """Keep the reader's guess for the question `name`; None is no guess, and never an error.

    With `choices`, such as "abc", the guess is one of these letters, otherwise a number.
    """
    asked[name] = Prediction(choices)
    if guess is None:
        wanted = f"one of {', '.join(choices)}" if choices else "a number"
        print(f"{name}: no prediction yet. Write {wanted} in place of None, then read on.")
    elif choices and guess not in tuple(choices):
        print(f"{name}: {guess!r} is none of {', '.join(choices)}; not counted.")
    elif not choices and (isinstance(guess, bool) or not isinstance(guess, int | float)):
        print(f"{name}: {guess!r} is not a number; not counted.")
    else:
        asked[name].guess = guess
        print(f"{name}: you say {_text(guess)}. Read on.")


def reveal(name: str, answer: Answer, *, within: float = 0.0) -> None:
    """Give the answer, which the chapter has just computed, and compare the guess with it.

    A number is right if it differs from the answer by the share `within` of it at most.
    """
    prediction = asked.setdefault(name, Prediction())
    prediction.answer, guess = answer, prediction.guess
    if isinstance(answer, str) or isinstance(guess, str) or guess is None:
        prediction.right = guess == answer
    else:
        prediction.right = abs(guess - answer) <= within * abs(answer)
    if guess is None:
        verdict = "You made no prediction."
    elif prediction.right:
        verdict = f"You said {_text(guess)}: right."
    else:
        verdict = f"You said {_text(guess)}: not this time."
    print(f"{name}: the answer is {_text(answer)}. {verdict}")


def score() -> None:
    """Print what was predicted, what came out, and how often the two met."""
    for name, p in asked.items():
        guess = "no guess" if p.guess is None else f"you said {_text(p.guess)}"
        answer = "not shown yet" if p.answer is None else _text(p.answer)
        print(f"{'✓' if p.right else '·'} {name:6} {guess:20} answer: {answer}")
    made = sum(p.guess is not None for p in asked.values())
    right = sum(p.right for p in asked.values())
    print(f"{right} right of {made} made; {len(asked)} were asked.")


def _text(value: Answer) -> str:
    return value if isinstance(value, str) else f"{value:,.6g}" if value % 1 else f"{value:,.0f}"
