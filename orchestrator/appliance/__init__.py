"""What is booted: building, verifying, storing and describing libguestfs fixed appliances."""
