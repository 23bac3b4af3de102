"""guestlaunch bench: options to sides, runs to a result file, figures to the terminal."""
