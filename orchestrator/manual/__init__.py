"""The manual: pages made from the commands, the settings and the daemon's options; as man pages and as plain text."""
