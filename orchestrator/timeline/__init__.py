"""Timeline: the phases of a launch, who saw their boundaries, and the log schema they are written in."""
