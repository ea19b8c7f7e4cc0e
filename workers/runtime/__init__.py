"""The runtime of every worker: request loop, reports to the supervisor, followers; and the supervisor."""
