"""What every aggregate and every part builds on: events, errors, ids, the handling of commands, the ports."""
