"""`python -m jobs`: the command line."""

import sys

from jobs.cli import command_line

sys.exit(command_line())
