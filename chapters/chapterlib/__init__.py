"""What every chapter uses.

- ``labels``: check an equation, and say how: symbolic, exact, property, Monte Carlo
- ``predictions``: ask before showing, keep the guesses and count them
- ``checker``: exercises that check themselves and name known mistakes
- ``figures``: the look of the figures

All print plain text that depends on nothing but the chapter, so that a second run of a notebook
gives the same output.
"""
