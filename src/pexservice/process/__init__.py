"""
The service as a Unix process: file descriptors, exit statuses, heartbeats.
"""
