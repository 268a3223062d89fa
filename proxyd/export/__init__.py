"""Recordings as films other people can watch, and as files other tools replay; made in a process of their own."""
