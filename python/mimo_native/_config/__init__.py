"""How ``config.json`` is read (read, fields), written (write) and checked (checks)."""
