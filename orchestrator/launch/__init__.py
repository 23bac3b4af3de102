"""One launch, from request to gone: the life cycle, cold and warm starts, templates, the gate, the standby pool."""
