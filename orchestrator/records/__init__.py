"""Records: the log line of a launch and its schema, event log and journal, the store of launches and its filters."""
