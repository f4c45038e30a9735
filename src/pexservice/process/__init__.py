"""
Being a Unix process: descriptors, exit statuses, signs of life.
"""
