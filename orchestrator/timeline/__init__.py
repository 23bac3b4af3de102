"""Timeline: the phases of a launch, and who saw their boundaries."""
