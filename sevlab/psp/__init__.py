"""The secure processor: the SEV firmware behind its mailbox."""
