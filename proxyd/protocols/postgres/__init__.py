"""PostgreSQL, protocol 3: the engine and what it needs."""
