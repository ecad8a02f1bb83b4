"""The local services of tests and developers: how each is installed, started, found again and stopped."""
