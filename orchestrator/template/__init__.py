"""Templates: what they depend on and are found by, where they are kept, whether they still hold."""
