"""RDP: the engine and what it needs."""
