"""One module per outside thing. Siblings don't see each other; `wiring` alone sees all."""
