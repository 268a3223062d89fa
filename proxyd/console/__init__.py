"""The web console: one more client of the control socket, in a process of its own (`proxyd console`)."""
