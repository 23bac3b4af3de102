"""Telemetry: launches as they end, to Prometheus, node_exporter and OpenTelemetry."""
