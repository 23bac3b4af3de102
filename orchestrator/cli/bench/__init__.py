"""guestlaunch bench: one module a command, and what they share."""
