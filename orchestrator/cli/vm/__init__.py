"""guestlaunch vm: VMs made of images, kept by libvirt."""
