"""SSH: asyncssh on both sides, channel requests relayed raw."""
