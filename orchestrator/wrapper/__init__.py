"""The LIBGUESTFS_HV program: libguestfs's QEMU command line in, a launch request out."""
