"""Videos: reading, sampling."""
