"""Benchmarks of pyloop beside its peers: ``python -m benchmarks`` from a checkout.

One measurement is one process, rounds are interleaved across the peers, and what is compared is
the median of the rounds.  README.md says how to run them and what they can and cannot show.
"""
