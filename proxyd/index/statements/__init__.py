"""What is derived of database sessions."""
