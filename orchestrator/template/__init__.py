"""Templates on disk: what they depend on, where they are kept, whether they still hold."""
