"""What the domain needs from the outside, one contract per part. Every sentence of a docstring has a test."""
