"""The GPT for inference on a CPU, by kernels of our own: an extra, `fast`, which needs numba."""

import os

# Or numba has colorama take stdout over, which drops escape sequences out of answers in a pipe.
os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")
