"""Small complete programs on pyloop: run one with `python -m pyloop.examples.NAME --help`."""
