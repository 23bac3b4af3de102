"""One launch, from request to ready to gone."""
