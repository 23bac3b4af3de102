"""A domain as values: the model, the profiles, the policy that chooses, and pure functions to libvirt XML."""
