"""What every worker shares: the request loop, control, followers, and the supervisor."""
