"""Silicon: chips, memory, the encryption engine, the clock."""
