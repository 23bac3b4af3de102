"""Telemetry: launches, as they end, told to Prometheus, node_exporter and OpenTelemetry."""
