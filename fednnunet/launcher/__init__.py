"""A federation on one machine: its processes, and the devices they share."""
