"""The `users` role: account commands and e-mail claims."""
