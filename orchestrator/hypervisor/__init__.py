"""Talks to libvirt and QEMU; nothing outside this room imports `libvirt`. Policy and XML are made elsewhere."""
