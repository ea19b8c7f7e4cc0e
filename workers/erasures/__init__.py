"""The `erasures` role: the process manager of erasures and the janitor of e-mail claims."""
