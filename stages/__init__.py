"""The stages of the pipeline: one door a file, the core in erasediff/."""

from erasediff.command import enter_environment

enter_environment()
