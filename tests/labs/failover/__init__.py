"""
Kill the serving worker again and again, and measure the pauses.
"""
