"""The control socket: commands, server, client."""
