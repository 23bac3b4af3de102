"""guestlaunch install: systems installed from a distribution's tree, until they have booted from their disks."""
