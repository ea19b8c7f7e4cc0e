"""Load runs: an open arrival process against running workers, its report, and a ledger of what the system kept.

Promise: it uses the public package `es` and the rules of the domain, like any other program. Refusal: nothing of a store or of a worker is
imported here; what the system did is read with the same queries that everyone has.
"""
