"""The command line: parse options, call one use case, render. No logic."""

import gc

# Starting makes some hundred thousand objects that live to the end. With Python's own thresholds the
# collector walks them again and again, which costs every command 20 to 40 ms.
gc.set_threshold(200_000, 20, 50)
