"""guestlaunch kernel: any kernel, tried under UEFI or without, with a verdict."""
