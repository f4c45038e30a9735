"""
Steps of the Python client while workers, supervisors and nodes are killed.
"""
