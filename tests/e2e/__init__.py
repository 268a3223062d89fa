"""The proof: real clients, a real target, and proxyd between them."""
