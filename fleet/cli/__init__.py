"""One file per command group: parse options, call one use case, render."""
