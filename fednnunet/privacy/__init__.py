"""What may leave a site: its policy, gate, approvals and audit log."""
