"""Disk images: what their headers say, which other files they name, and which of these a launch may touch."""
