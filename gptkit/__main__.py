"""`python -m gptkit` is the `gptkit` command."""

import sys

from gptkit.cli import main

sys.exit(main())
