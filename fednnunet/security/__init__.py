"""Who may connect: certificates, keys and authentication."""
