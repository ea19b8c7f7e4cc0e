"""User accounts: register, rename, change the e-mail address, delete, erase."""
