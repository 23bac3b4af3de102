"""VMs made of images: what one is asked to be, what the image is, how it is made, followed until ready, and removed."""
