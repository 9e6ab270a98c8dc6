"""Commands that run the stages in order, hold the checkout and move aliases. They compute nothing.

A file here is a command; ``jobs`` holds all that imports Prefect, ``tools`` what needs none.
"""

from erasediff.command import enter_environment

enter_environment()
