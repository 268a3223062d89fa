"""What every stream and every relay must keep, over every kind of connection."""
