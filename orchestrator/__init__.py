"""guestlaunch: launches libguestfs appliances through libvirt, and times every phase."""

__version__ = "0.1.0"
