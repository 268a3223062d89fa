"""What is derived of terminal sessions: their screens, where to go on from, heat, the text that was on them."""
