"""The command line, ``mimo-native``: main.py parses, one file per command runs it."""
